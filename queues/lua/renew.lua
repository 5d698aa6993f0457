-- Extend the claims a worker still holds.
-- KEYS[1] namespace   ARGV[1] lease_ms   ARGV[2…] id, fence, id, fence, …
-- Reply: list of 1 (extended) or 0 (lost, or its job cancelled), one per claim.
local reply = {}
for i = 2, #ARGV, 2 do
  local state, fence = unpack(redis.call('HMGET', key('s', ARGV[i]), 'state', 'fence'))
  local cancelled = redis.call('HGET', key('j', job_of(ARGV[i])), 'stop') == 'cancelled'
  local held = state == 'running' and fence == ARGV[i + 1] and not cancelled
  if held then redis.call('ZADD', key('watch'), now + tonumber(ARGV[1]), ARGV[i]) end
  reply[#reply + 1] = held and 1 or 0
end
return reply
