-- Accept a job, wholly or not at all: its place in the fair order, its cap, its document, and the subtask that starts it.
-- KEYS[1] namespace
-- ARGV[1] job   ARGV[2] tenant   ARGV[3] share   ARGV[4] cap ('' for none)   ARGV[5] document key
-- ARGV[6] index key; its tenant's index is behind it   ARGV[7] score there
-- ARGV[8] subtask id   ARGV[9] task   ARGV[10] tier   ARGV[11] weight of the tenant
-- ARGV[12] key of a promise to accept it once ('' for none)   ARGV[13] digest of what was asked for   ARGV[14] for how many ms
-- the promise holds   ARGV[15…] fields of the document
-- Reply: the job: an earlier one where the promise was given to it, '' where it was given for something else.
local job, document, id, promise = ARGV[1], key(ARGV[5]), ARGV[8], ARGV[12] ~= '' and key(ARGV[12])
if redis.call('EXISTS', document) == 1 then return job end
if promise then
  local earlier, digest = unpack(redis.call('HMGET', promise, 'job', 'digest'))
  if earlier and digest ~= ARGV[13] then return '' end
  if earlier then
    redis.call('HSET', promise, 'again', 1) -- somebody else was told of it: it cannot be taken back any more
    return earlier
  end
  redis.call('HSET', promise, 'job', job, 'digest', ARGV[13])
  redis.call('PEXPIRE', promise, ARGV[14])
end
redis.call('HSET', document, unpack(ARGV, 15))
redis.call('ZADD', key(ARGV[6]), ARGV[7], job)
redis.call('ZADD', key(ARGV[6], ARGV[2]), ARGV[7], job)
redis.call('HSET', key('j', job), 'tenant', ARGV[2], 'share', ARGV[3], 'weight', ARGV[11])
if ARGV[4] ~= '' then redis.call('HSET', key('q', job), 'cap', ARGV[4]) end
redis.call('HSET', key('s', id), 'task', ARGV[9], 'payload', '', 'cost', 1, 'needs', 0, 'fence', 0, 'kills', 0, 'sends', 0)
make_ready(id, ARGV[10], nil, false)
happened(job, 'accepted')
return job
