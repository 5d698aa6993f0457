-- Let those go on who wait for a claimed subtask, which itself goes on: what it still does is none of theirs.
-- KEYS[1] namespace   ARGV[1] id   ARGV[2] fence   ARGV[3] output: what it has for them
-- Reply: 1, or 0 when the fence is not the current one.
local id = ARGV[1]
local s = key('s', id)
local state, fence = unpack(redis.call('HMGET', s, 'state', 'fence'))
if state ~= 'running' or fence ~= ARGV[2] then return 0 end
redis.call('HSET', s, 'output', ARGV[3])
for _, dependent in ipairs(redis.call('SMEMBERS', key('d', id))) do need_met(dependent, 0) end
redis.call('DEL', key('d', id))
return 1
