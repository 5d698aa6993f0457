-- Let a job go on that was paused at a cap, where what it was short of fits again: the cap is higher, another day or month has
-- begun, or less was used in the end than was thought.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] caps (see _shared.lua; '': none)   ARGV[3…] tiers
-- Reply: 1 it goes on, 0 it is still short, or not paused at a cap.
local job = ARGV[1]
local stop, why, amount, tenant = unpack(redis.call('HMGET', key('j', job), 'stop', 'why', 'short', 'tenant'))
if stop ~= 'paused' or (why or '') == '' or not amount then
  redis.call('HDEL', key('j', job), 'short')
  redis.call('SREM', key('short'), job)
  return 0
end
say_caps(ARGV[2])
local cap, used, held = unpack(redis.call('HMGET', key('q', job), 'cap', 'used', 'held'))
local short = shorter(nil, tonumber(cap), tonumber(used or 0), tonumber(held or 0), tonumber(amount), '', '', 0)
if short_of_shared(short, since_now(tenant), tonumber(amount)) then return 0 end
let_on(job, {unpack(ARGV, 3)})
return 1
