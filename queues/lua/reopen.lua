-- Let a job that has ended run again, under the claim of whoever opens it: what it ended with is dropped.
-- KEYS[1] namespace   ARGV[1] document key   ARGV[2] claimed subtask   ARGV[3] fence of that claim
-- ARGV[4] states it may have ended in (JSON list)   ARGV[5] its round   ARGV[6] new state   ARGV[7] new round
-- ARGV[8…] fields to drop
-- Reply: 1 it runs, 0 the claim was lost, 2 the job stands elsewhere.
local document = key(ARGV[1])
local state, round = unpack(redis.call('HMGET', document, 'status', 'round'))
if redis.call('HGET', key('s', ARGV[2]), 'fence') ~= ARGV[3] then return 0 end
if state == ARGV[6] and round == ARGV[7] then return 1 end -- the reply was lost and this is the same call again
if round ~= ARGV[5] then return 2 end
for _, ended in ipairs(cjson.decode(ARGV[4])) do
  if state == ended then
    redis.call('HDEL', document, unpack(ARGV, 8))
    redis.call('HSET', document, 'status', ARGV[6], 'round', ARGV[7])
    open_again(job_of(ARGV[2]))
    happened(job_of(ARGV[2]), 'status', 'status', ARGV[6])
    return 1
  end
end
return 2
