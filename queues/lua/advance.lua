-- Compare and set one field of a hash, and write others with it, while all guards hold.
-- KEYS[1] namespace   ARGV[1] key below it   ARGV[2] field   ARGV[3] allowed values (JSON list; '': there is none)
-- ARGV[4] new value
-- ARGV[5] guards (JSON; see _common.lua)   ARGV[6…] further fields and values
-- A job that has its final status by this is told of (see _outbox.lua).
-- Reply: 1 written, 0 the field held another value or a guard did not hold.
local hash, job = key(ARGV[1]), string.match(ARGV[1], '^job:(.*)$')
local value = redis.call('HGET', hash, ARGV[2]) or ''
if not hold_all(ARGV[5]) then return 0 end
for _, allowed in ipairs(cjson.decode(ARGV[3])) do
  if value == allowed then
    redis.call('HSET', hash, ARGV[2], ARGV[4], unpack(ARGV, 6))
    if job and ARGV[2] == 'status' then
      local event = happened(job, 'status', 'status', ARGV[4])
      if redis.call('HEXISTS', hash, 'finished_at') == 1 then
        no_longer_open(job)
        tell(job, ARGV[4], event)
      end
    end
    if job and ARGV[2] == 'plan' then happened(job, 'planned') end
    return 1
  end
end
return 0
