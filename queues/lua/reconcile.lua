-- Put back what should be moving and is not: claims that expired, messages that no worker took, gates that never fired.
-- KEYS[1] namespace   ARGV[1] most
-- Reply: flat list of id, what it was ('queued' or 'running').
beat()
local later = lenient_until()
local reply = {}
for _, id in ipairs(redis.call('ZRANGE', key('watch'), '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local state, tier = unpack(redis.call('HMGET', key('s', id), 'state', 'tier'))
  if state == 'running' and later > now then
    redis.call('ZADD', key('watch'), later, id)
  else
    redis.call('ZREM', key('watch'), id)
    if state == 'running' then
      take_back(id, tier)
    elseif state == 'queued' then
      redis.call('SREM', key('out', tier), id)
      make_ready(id, tier, {tier = tier, state = state}, true)
    end
    if state == 'running' or state == 'queued' then
      reply[#reply + 1] = id
      reply[#reply + 1] = state
    end
  end
end
return reply
