-- Accept a job, wholly or not at all: its place in the fair order, its cap, its document, and the subtask that starts it.
-- KEYS[1] namespace
-- ARGV[1] job   ARGV[2] tenant   ARGV[3] share   ARGV[4] cap ('' for none)   ARGV[5] document key
-- ARGV[6] index key ('' for none); its tenant's index is behind it   ARGV[7] score there
-- ARGV[8] subtask id   ARGV[9] task   ARGV[10] tier   ARGV[11] weight of the tenant
-- ARGV[12] key of a promise to accept it once ('' for none)   ARGV[13] digest of what was asked for   ARGV[14] for how many ms
-- the promise holds   ARGV[15] payload   ARGV[16] cost
-- ARGV[17] '' or whom to tell ('-': nobody) of the end of a job that ends with this subtask   ARGV[18] for how many ms such a
-- job is kept   ARGV[19] the record of its entries
-- ARGV[20] jobs that the tenant may have open   ARGV[21] bytes it may send in a day ('' for any)   ARGV[22] caps on what it and
-- all may use (see _shared.lua)
-- ARGV[23] bytes that this job sends   ARGV[24] 1: whoever asks sends the subtask, and the dispatcher need not be rung for
-- ARGV[25…] fields of the document
-- Reply: the job: an earlier one where the promise was given to it, '' where it was given for something else; or '!jobs' or
-- '!bytes', of which the tenant has all that it may have, or '!WHOM:PER:NUMBER' where a cap is used up.
local job, document, id, promise = ARGV[1], key(ARGV[5]), ARGV[8], ARGV[12] ~= '' and key(ARGV[12])
if redis.call('EXISTS', document) == 1 then return job end
local tenant = ARGV[2]
local open, sent = key('open', tenant), key('day', 'bytes', tenant)
local function over(limit, used) return limit ~= '' and used > tonumber(limit) end
-- Those that an earlier version ended are still in the list: the oldest are looked at when it is full.
local function open_jobs()
  if over(ARGV[20], redis.call('ZCARD', open) + 1) then
    for _, other in ipairs(redis.call('ZRANGE', open, 0, 99)) do
      if redis.call('HEXISTS', key('job', other), 'created_at') == 0 or redis.call('HEXISTS', key('job', other), 'finished_at') == 1 then
        redis.call('ZREM', open, other)
      end
    end
  end
  return redis.call('ZCARD', open) + 1
end
local function refused()
  if over(ARGV[20], open_jobs()) then return '!jobs' end
  if over(ARGV[21], tonumber(redis.call('HGET', sent, today()) or 0) + ARGV[23]) then return '!bytes' end
  say_caps(ARGV[22])
  local short = is_capped(tenant) and short_of_shared(nil, since_now(tenant), 1, true)
  return short and '!' .. table.concat({unpack(short, 5)}, ':')
end
if promise then
  local earlier, digest = unpack(redis.call('HMGET', promise, 'job', 'digest'))
  if earlier and digest ~= ARGV[13] then return '' end
  if earlier then
    redis.call('HSET', promise, 'again', 1) -- somebody else was told of it: it cannot be taken back any more
    return earlier
  end
end
local why = refused()
if why then return why end
if promise then
  redis.call('HSET', promise, 'job', job, 'digest', ARGV[13])
  redis.call('PEXPIRE', promise, ARGV[14])
end
redis.call('HSET', document, unpack(ARGV, 25))
if ARGV[6] ~= '' then
  redis.call('ZADD', key(ARGV[6]), ARGV[7], job)
  redis.call('ZADD', key(ARGV[6], tenant), ARGV[7], job)
end
redis.call('ZADD', open, now, job)
redis.call('ZADD', key('tenants'), now, tenant)
if tonumber(ARGV[23]) > 0 then in_period('day', 'bytes', tenant, today(), tonumber(ARGV[23])) end
redis.call('HSET', key('j', job), 'tenant', tenant, 'share', ARGV[3], 'weight', ARGV[11])
if ARGV[4] ~= '' then redis.call('HSET', key('q', job), 'cap', ARGV[4]) end
redis.call('HSET', key('s', id), 'task', ARGV[9], 'payload', ARGV[15], 'cost', ARGV[16], 'needs', 0,
  'fence', 0, 'kills', 0, 'sends', 0)
if ARGV[17] ~= '' then redis.call('HSET', key('s', id), 'ends', ARGV[17], 'keep_ms', ARGV[18], 'record', ARGV[19]) end
make_ready(id, ARGV[10], nil, false, ARGV[24] == '1')
happened(job, 'accepted')
if ARGV[17] ~= '' then keep_for(job, id, 2 * ARGV[18]) end -- should it never end
return job
