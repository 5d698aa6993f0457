-- Give a quota its hard cap, unless more than that is used or held already.
-- KEYS[1] namespace   ARGV[1] quota   ARGV[2] cap
-- Reply: {1 it has it, 0 it keeps the one it had; used; held}.
local used, held = unpack(redis.call('HMGET', key('q', ARGV[1]), 'used', 'held'))
used, held = tonumber(used or 0), tonumber(held or 0)
if used + held > tonumber(ARGV[2]) then return {0, used, held} end
redis.call('HSET', key('q', ARGV[1]), 'cap', ARGV[2])
return {1, used, held}
