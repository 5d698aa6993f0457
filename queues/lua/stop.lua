-- Let no further subtask of a job start. Paused: what is ready waits. Cancelled: it is dropped. A pause that nobody asked for is told
-- of (see _outbox.lua).
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] 'paused' or 'cancelled'
-- ARGV[3] why ('': somebody asked for it)   ARGV[4] guards (JSON; see _common.lua)   ARGV[5…] tiers
-- Reply: 1, or 0 when a guard does not hold, or when it was to be paused and is cancelled: what was dropped cannot be resumed.
if not hold_all(ARGV[4]) then return 0 end
local tenant = redis.call('HGET', key('j', ARGV[1]), 'tenant') or 'default'
if ARGV[2] == 'paused' and redis.call('HGET', key('j', ARGV[1]), 'stop') == 'cancelled' then return 0 end
-- That a job is cancelled its status will say.
if ARGV[2] == 'paused' and redis.call('HGET', key('j', ARGV[1]), 'stop') ~= 'paused' then
  local event = happened(ARGV[1], 'status', 'status', 'paused', 'reason', ARGV[3])
  if ARGV[3] ~= '' then tell(ARGV[1], 'paused', event) end
end
redis.call('HSET', key('j', ARGV[1]), 'stop', ARGV[2], 'why', ARGV[3])
if ARGV[2] == 'cancelled' then redis.call('SADD', key('winding'), ARGV[1]) end
for i = 5, #ARGV do
  redis.call('ZREM', key('b', ARGV[i], tenant), ARGV[1])
  if ARGV[2] == 'cancelled' then redis.call('DEL', key('b', ARGV[i], tenant, ARGV[1])) end
end
return 1
