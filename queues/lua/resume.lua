-- Open the lanes of a paused job again.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2…] tiers
-- Reply: 1, or 0 when the job was not paused.
local j = key('j', ARGV[1])
if redis.call('HGET', j, 'stop') ~= 'paused' then return 0 end
redis.call('HDEL', j, 'stop', 'why')
open_lanes(ARGV[1], {unpack(ARGV, 2)})
happened(ARGV[1], 'resumed')
return 1
