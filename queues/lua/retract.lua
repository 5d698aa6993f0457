-- Take back a job that was written and is not accepted after all, unless it has begun or was asked for again.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] document key   ARGV[3] index key   ARGV[4] id of the subtask that starts it
-- ARGV[5] key of the promise to accept it once ('': none)
-- Reply: 1 taken back, 0 it has begun.
local s = key('s', ARGV[4])
local state, tier = unpack(redis.call('HMGET', s, 'state', 'tier'))
if state ~= 'ready' and state ~= 'queued' then return 0 end
if ARGV[5] ~= '' and redis.call('HEXISTS', key(ARGV[5]), 'again') == 1 then return 0 end
local tenant = redis.call('HGET', key('j', ARGV[1]), 'tenant') or 'default'
no_longer_open(ARGV[1])
redis.call('SREM', key('out', tier), ARGV[4])
redis.call('ZREM', key('watch'), ARGV[4])
redis.call('DEL', s, key('b', tier, tenant, ARGV[1]), key('j', ARGV[1]), key('q', ARGV[1]), key('c', ARGV[1]), key('ev', ARGV[1]), key(ARGV[2]))
redis.call('ZREM', key('b', tier, tenant), ARGV[1])
redis.call('ZREM', key(ARGV[3]), ARGV[1])
redis.call('ZREM', key(ARGV[3], tenant), ARGV[1])
if ARGV[5] ~= '' and redis.call('HGET', key(ARGV[5]), 'job') == ARGV[1] then redis.call('DEL', key(ARGV[5])) end
return 1
