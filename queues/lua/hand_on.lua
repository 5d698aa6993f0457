-- Give a claimed subtask back to a backlog: to another tier (escalation) or to its own (a draining worker).
-- KEYS[1] namespace   ARGV[1] id   ARGV[2] fence   ARGV[3] tier   ARGV[4] trail   ARGV[5] charges (JSON)
-- Reply: 1 handed on, 0 the fence is not the current one (the charges are written all the same).
local id = ARGV[1]
local s = key('s', id)
apply_charges(ARGV[5])
local state, tier, fence = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence'))
if fence == ARGV[2] and state == 'ready' then return 1 end -- the reply was lost and this is the same call again
if state ~= 'running' or fence ~= ARGV[2] then return 0 end
redis.call('HSET', s, 'trail', ARGV[4])
redis.call('SREM', key('out', tier), id)
redis.call('ZREM', key('watch'), id)
make_ready(id, ARGV[3], {tier = tier, state = state}, true)
return 1
