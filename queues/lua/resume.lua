-- Open the lanes of a paused job again.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2…] tiers
-- Reply: 1, or 0 when the job was not paused.
local j = key('j', ARGV[1])
if redis.call('HGET', j, 'stop') ~= 'paused' then return 0 end
redis.call('HDEL', j, 'stop')
local tenant = redis.call('HGET', j, 'tenant') or 'default'
for i = 2, #ARGV do
  if redis.call('LLEN', key('b', ARGV[i], tenant, ARGV[1])) > 0 then open_lane(ARGV[i], tenant, ARGV[1]) end
end
ring()
return 1
