-- Put a claimed subtask by for a while: until then nobody is woken for it, and it takes no place.
-- KEYS[1] namespace   ARGV[1] id   ARGV[2] fence   ARGV[3] trail   ARGV[4] ms
-- Reply: 1 put by, 0 the fence is not the current one.
local id = ARGV[1]
local s = key('s', id)
local state, tier, fence = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence'))
if fence == ARGV[2] and state == 'queued' then return 1 end -- the reply was lost and this is the same call again
if state ~= 'running' or fence ~= ARGV[2] then return 0 end
redis.call('HSET', s, 'trail', ARGV[3], 'snoozed', 1, 'kills', 0) -- nobody died of it this time
redis.call('SREM', key('out', tier), id)
move(id, tier, {tier = tier, state = state}, 'queued')
redis.call('ZADD', key('watch'), now + ARGV[4], id)
if redis.call('ZCARD', key('b', tier)) > 0 then ring() end
return 1
