-- Put back what should be moving and is not: claims that expired, messages that no worker took, gates that never fired.
-- KEYS[1] namespace   ARGV[1] most
-- Reply: flat list of id, what it was ('queued' or 'running').
beat()
local later = lenient_until()
local reply = {}
for _, id in ipairs(redis.call('ZRANGE', key('watch'), '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local s = key('s', id)
  local state, tier = unpack(redis.call('HMGET', s, 'state', 'tier'))
  if state == 'running' and later > now then
    redis.call('ZADD', key('watch'), later, id)
  else
    redis.call('ZREM', key('watch'), id)
    if state == 'queued' or state == 'running' then
      redis.call('SREM', key('out', tier), id)
      if state == 'running' then
        redis.call('HINCRBY', s, 'kills', 1)
        redis.call('HINCRBY', s, 'fence', 1) -- whoever held it can no longer write
      end
      make_ready(id, tier, {tier = tier, state = state}, true)
      reply[#reply + 1] = id
      reply[#reply + 1] = state
    end
  end
end
return reply
