-- Let a job that has ended run again, under the claim of whoever opens it: what it ended with is dropped, and so is a pause or
-- a cancel that came as it ended, for it was meant for the job as it was.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] document key   ARGV[3] claimed subtask   ARGV[4] fence of that claim
-- ARGV[5] states it may have ended in (JSON list)   ARGV[6] its round   ARGV[7] new state   ARGV[8] new round
-- ARGV[9…] fields to drop
-- Reply: 1 it runs, 0 the claim was lost or it stands elsewhere.
local document = key(ARGV[2])
local state, round = unpack(redis.call('HMGET', document, 'status', 'round'))
if redis.call('HGET', key('s', ARGV[3]), 'fence') ~= ARGV[4] then return 0 end
if state == ARGV[7] and round == ARGV[8] then return 1 end -- the reply was lost and this is the same call again
if round ~= ARGV[6] then return 0 end
for _, ended in ipairs(cjson.decode(ARGV[5])) do
  if state == ended then
    redis.call('HDEL', document, unpack(ARGV, 9))
    redis.call('HSET', document, 'status', ARGV[7], 'round', ARGV[8])
    redis.call('HDEL', key('j', ARGV[1]), 'stop')
    redis.call('SREM', key('winding'), ARGV[1])
    return 1
  end
end
return 0
