-- What came of telling of a notice, from whoever took it last.
-- KEYS[1] namespace   ARGV[1] notice   ARGV[2] fence   ARGV[3] its state now: 'due', 'delivered' or 'failed'
-- ARGV[4] what was answered   ARGV[5] for 'due': in how many ms
-- Reply: 1 written, 0 somebody else has taken it since, or it is too old to be known.
local e = key('obe', ARGV[1])
local fence, host = unpack(redis.call('HMGET', e, 'fence', 'host'))
if fence ~= ARGV[2] then return 0 end
redis.call('HSET', e, 'state', ARGV[3], 'last', ARGV[4])
set_due(host, ARGV[1], ARGV[3] == 'due' and now + ARGV[5] or nil)
return 1
