-- Open the lanes of a paused job again.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2…] tiers
-- Reply: 1, or 0 when the job was not paused.
if redis.call('HGET', key('j', ARGV[1]), 'stop') ~= 'paused' then return 0 end
let_on(ARGV[1], {unpack(ARGV, 2)})
return 1
