-- Write something down for a job in the place of what stands there, and learn from that, once.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] name   ARGV[3] what stands there ('': nothing)   ARGV[4] body
-- ARGV[5] lessons: JSON list of {shelf, book, half_lives, sums}
-- Reply: 1 it stands there now (by an earlier call like this: nothing is learned again), 0 something else stood there.
local memos = key('m', ARGV[1])
local stood = redis.call('HGET', memos, ARGV[2]) or ''
if stood == ARGV[4] then return 1 end
if stood ~= ARGV[3] then return 0 end
redis.call('HSET', memos, ARGV[2], ARGV[4])
for _, l in ipairs(cjson.decode(ARGV[5])) do learn(l.shelf, l.book, l.half_lives, l.sums) end
return 1
