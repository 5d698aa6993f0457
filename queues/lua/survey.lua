-- Count what stands where, for whoever watches the fleet. Changes nothing, and looks at a bounded number of things.
-- KEYS[1] namespace   ARGV[1] most lanes of one tier   ARGV[2] most overdue   ARGV[3] job ('': none)   ARGV[4…] tiers
-- Reply: {watched, overdue, ms by which the oldest is, gates among the overdue, what was put right and the job's counts as flat lists,
--         how many calls of the job are under way, then for each tier {ready, out, workers, capacity}, and ms by which the oldest
--         gate is overdue}.
local watch = key('watch')
local function ready_on(tier)
  local ready, left = redis.call('LLEN', key('sus', tier)), tonumber(ARGV[1])
  for _, tenant in ipairs(redis.call('ZRANGE', key('b', tier), 0, left - 1)) do
    if left < 1 then break end
    for _, job in ipairs(redis.call('ZRANGE', key('b', tier, tenant), 0, left - 1)) do
      ready = ready + redis.call('LLEN', key('b', tier, tenant, job))
      left = left - 1
    end
  end
  return ready
end

local oldest = redis.call('ZRANGE', watch, 0, 0, 'WITHSCORES')[2]
local gates, oldest_gate = 0, now
local overdue = redis.call('ZRANGE', watch, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
for i = 1, #overdue, 2 do
  local state, members = unpack(redis.call('HMGET', key('s', overdue[i]), 'state', 'members'))
  if members and state == 'queued' then gates, oldest_gate = gates + 1, math.min(oldest_gate, overdue[i + 1]) end
end
local reply = {
  redis.call('ZCARD', watch), redis.call('ZCOUNT', watch, '-inf', now),
  math.max(0, now - tonumber(oldest or now)), gates, redis.call('HGETALL', key('righted')),
  redis.call('HGETALL', key('c', ARGV[3])), redis.call('HLEN', key('i', ARGV[3])),
}
for i = 4, #ARGV do
  local workers, capacity = redis.call('ZRANGE', key('w', ARGV[i]), '(' .. int(now), '+inf', 'BYSCORE'), 0
  for _, worker in ipairs(workers) do capacity = capacity + tonumber(string.match(worker, '%d+$')) end
  reply[#reply + 1] = {ready_on(ARGV[i]), redis.call('SCARD', key('out', ARGV[i])), #workers, capacity}
end
reply[#reply + 1] = now - oldest_gate
return reply
