-- Take notices that are due, for as long as it takes to tell of one; whoever dies at it leaves them due again. Old ones are dropped.
-- KEYS[1] namespace   ARGV[1] how many at most   ARGV[2] how many of one host may be under way   ARGV[3] for how many ms
-- ARGV[4…] host and how many of it are under way already, pair by pair
-- Reply: notice and fence, pair by pair.
local left, under_way, taken = tonumber(ARGV[1]), {}, {}
for i = 4, #ARGV, 2 do under_way[ARGV[i]] = tonumber(ARGV[i + 1]) end
redis.call('ZREMRANGEBYSCORE', key('oba'), 0, now - KEEP_NOTICES_MS)
-- Of hosts that have their share already there are no more than pairs.
for _, host in ipairs(redis.call('ZRANGE', key('ob'), 0, now, 'BYSCORE', 'LIMIT', 0, left + #ARGV)) do
  local most = math.min(left, ARGV[2] - (under_way[host] or 0))
  for _, notice in ipairs(most > 0 and redis.call('ZRANGE', key('ob', host), 0, now, 'BYSCORE', 'LIMIT', 0, most) or {}) do
    if redis.call('EXISTS', key('obe', notice)) == 1 then
      set_due(host, notice, now + ARGV[3])
      redis.call('HINCRBY', key('obe', notice), 'tries', 1)
      taken[#taken + 1], taken[#taken + 2] = notice, redis.call('HINCRBY', key('obe', notice), 'fence', 1)
      left = left - 1
    else
      set_due(host, notice, nil)
    end
  end
end
return taken
