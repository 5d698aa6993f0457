-- Nothing of a cancelled job is left but its records: drop what of it lies in the backlogs.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2…] tiers
-- Reply: 1.
local tenant = redis.call('HGET', key('j', ARGV[1]), 'tenant') or 'default'
for i = 2, #ARGV do redis.call('DEL', key('b', ARGV[i], tenant, ARGV[1])) end
redis.call('SREM', key('winding'), ARGV[1])
return 1
