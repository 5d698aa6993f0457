-- Nothing of a cancelled job is left but its records: drop what of it lies in the backlogs. One that is not stopped as it was
-- found is left alone.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] how it was found to be stopped ('': not any more)   ARGV[3…] tiers
-- Reply: 1, or 0 when it is stopped in another way.
local how, tenant = unpack(redis.call('HMGET', key('j', ARGV[1]), 'stop', 'tenant'))
if (how or '') ~= ARGV[2] then return 0 end
if how == 'cancelled' then
  for i = 3, #ARGV do redis.call('DEL', key('b', ARGV[i], tenant or 'default', ARGV[1])) end
end
redis.call('SREM', key('winding'), ARGV[1])
return 1
