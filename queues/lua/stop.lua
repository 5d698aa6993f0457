-- Let no further subtask of a job start. Paused: what is ready waits. Cancelled: it is dropped.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] 'paused' or 'cancelled'   ARGV[3…] tiers
-- Reply: 1.
local tenant = redis.call('HGET', key('j', ARGV[1]), 'tenant') or 'default'
redis.call('HSET', key('j', ARGV[1]), 'stop', ARGV[2])
for i = 3, #ARGV do
  redis.call('ZREM', key('b', ARGV[i], tenant), ARGV[1])
  if ARGV[2] == 'cancelled' then redis.call('DEL', key('b', ARGV[i], tenant, ARGV[1])) end
end
return 1
