-- Put back what should be moving and is not: claims that expired, messages that no worker took, gates that never fired. And what was
-- put by until now, of which nothing is told.
-- KEYS[1] namespace   ARGV[1] most   ARGV[2] lease_ms
-- Reply: flat list of id, what it was ('queued' or 'running').
local lease_ms = tonumber(ARGV[2])
beat(lease_ms)
local later = lenient_until(lease_ms)
local reply = {}
for _, id in ipairs(redis.call('ZRANGE', key('watch'), '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local s = key('s', id)
  local state, tier, gate, claims, again = unpack(redis.call('HMGET', s, 'state', 'tier', 'members', 'claims', 'again'))
  if state == 'running' and later > now then
    redis.call('ZADD', key('watch'), later, id)
  else
    redis.call('ZREM', key('watch'), id)
    local due = false
    if state == 'running' then
      take_back(id, tier)
    elseif state == 'queued' then
      redis.call('SREM', key('out', tier), id)
      -- One that was put by is due: nothing is wrong with it.
      due = redis.call('HDEL', s, 'snoozed') == 1
      if not due then
        -- The first message for the body of a gate is its chord's, every later one the dispatcher's.
        count(tier, gate and not claims and not again and 'gate_swept' or 'message_lost')
        redis.call('HSET', s, 'again', 1)
      end
      make_ready(id, tier, {tier = tier, state = state}, true)
    end
    if not due and (state == 'running' or state == 'queued') then
      reply[#reply + 1] = id
      reply[#reply + 1] = state
    end
  end
end
return reply
