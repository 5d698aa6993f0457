-- Accept a job, wholly or not at all: its place in the fair order, its cap, its document, and the subtask that starts it.
-- KEYS[1] namespace
-- ARGV[1] job   ARGV[2] tenant   ARGV[3] share   ARGV[4] cap ('' for none)   ARGV[5] document key   ARGV[6] index key
-- ARGV[7] score in the index   ARGV[8] subtask id   ARGV[9] task   ARGV[10] tier   ARGV[11] weight of the tenant
-- ARGV[12…] fields of the document
-- Reply: 1, or 0 when the job exists already.
local job, document, id = ARGV[1], key(ARGV[5]), ARGV[8]
if redis.call('EXISTS', document) == 1 then return 0 end
redis.call('HSET', document, unpack(ARGV, 12))
redis.call('ZADD', key(ARGV[6]), ARGV[7], job)
redis.call('HSET', key('j', job), 'tenant', ARGV[2], 'share', ARGV[3], 'weight', ARGV[11])
if ARGV[4] ~= '' then redis.call('HSET', key('q', job), 'cap', ARGV[4]) end
redis.call('HSET', key('s', id), 'task', ARGV[9], 'payload', '', 'cost', 1, 'needs', 0, 'fence', 0, 'kills', 0, 'sends', 0)
make_ready(id, ARGV[10], nil, false)
return 1
