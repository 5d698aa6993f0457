-- End a claimed subtask: result, entries, freed holds and the readiness of what waited for it, together.
-- KEYS[1] namespace
-- ARGV[1] id   ARGV[2] fence   ARGV[3] status   ARGV[4] output   ARGV[5] charges (JSON)   ARGV[6] gate grace_ms
-- ARGV[7] 1 where it ends because its workers keep dying, else 0
-- Reply: 1 written, 0 the fence is not the current one (the charges are written all the same).
local id, grace_ms = ARGV[1], tonumber(ARGV[6])
local s = key('s', id)
apply_charges(ARGV[5])
local state, tier, fence, gate = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence', 'gate'))
if fence == ARGV[2] and state == 'final' then return 1 end -- the reply was lost and this is the same call again
if state ~= 'running' or fence ~= ARGV[2] then return 0 end
redis.call('HSET', s, 'status', ARGV[3], 'output', ARGV[4])
move(id, tier, {tier = tier, state = state}, 'final')
redis.call('HINCRBY', key('c', job_of(id)), tier .. ':' .. ARGV[3], 1)
if ARGV[7] == '1' then count(tier, 'quarantined') end
redis.call('SREM', key('out', tier), id)
redis.call('ZREM', key('watch'), id)
for _, dependent in ipairs(redis.call('SMEMBERS', key('d', id))) do need_met(dependent, grace_ms) end
redis.call('DEL', key('d', id))
if gate then need_met(gate, grace_ms) end
if redis.call('ZCARD', key('b', tier)) > 0 or redis.call('EXISTS', key('sus', tier)) == 1 then ring() end
return 1
