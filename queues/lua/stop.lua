-- Let no further subtask of a job start. Paused: what is ready waits. Cancelled: it is dropped. A pause that nobody asked for is told
-- of (see _outbox.lua).
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] 'paused' or 'cancelled'
-- ARGV[3] why ('': somebody asked for it)   ARGV[4] guards (JSON; see _common.lua)
-- ARGV[5] what it is short of, where it is paused at a cap: it goes on when so much fits again ('': nothing)   ARGV[6…] tiers
-- Reply: 1, or 0 when a guard does not hold, or when it was to be paused and is cancelled: what was dropped cannot be resumed; or
-- when it was to be paused at a cap and is paused already, which somebody else is to end.
if not hold_all(ARGV[4]) then return 0 end
local tenant = redis.call('HGET', key('j', ARGV[1]), 'tenant') or 'default'
if ARGV[2] == 'paused' and redis.call('HGET', key('j', ARGV[1]), 'stop') == 'cancelled' then return 0 end
if ARGV[5] ~= '' and redis.call('HGET', key('j', ARGV[1]), 'stop') == 'paused' then return 0 end
-- That a job is cancelled its status will say.
if ARGV[2] == 'paused' and redis.call('HGET', key('j', ARGV[1]), 'stop') ~= 'paused' then
  local event = happened(ARGV[1], 'status', 'status', 'paused', 'reason', ARGV[3])
  if ARGV[3] ~= '' then tell(ARGV[1], 'paused', event) end
end
redis.call('HSET', key('j', ARGV[1]), 'stop', ARGV[2], 'why', ARGV[3])
if ARGV[5] ~= '' then
  redis.call('HSET', key('j', ARGV[1]), 'short', ARGV[5])
  redis.call('SADD', key('short'), ARGV[1])
else
  redis.call('HDEL', key('j', ARGV[1]), 'short')
end
if ARGV[2] == 'cancelled' then redis.call('SADD', key('winding'), ARGV[1]) end
for i = 6, #ARGV do
  redis.call('ZREM', key('b', ARGV[i], tenant), ARGV[1])
  if ARGV[2] == 'cancelled' then redis.call('DEL', key('b', ARGV[i], tenant, ARGV[1])) end
end
return 1
