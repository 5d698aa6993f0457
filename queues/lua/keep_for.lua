-- Keep what is left of a job of one subtask for a while only: one that was cancelled, which no end of the subtask does it for.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] its subtask
-- Reply: nothing.
local keep_ms, record = unpack(redis.call('HMGET', key('s', ARGV[2]), 'keep_ms', 'record'))
if not keep_ms then return end
keep_for(ARGV[1], ARGV[2], keep_ms)
redis.call('PEXPIRE', key('r', record), keep_ms)
redis.call('PEXPIRE', key('rp', record), keep_ms)
