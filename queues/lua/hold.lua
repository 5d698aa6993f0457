-- Journal what is about to be used and hold its worst case: the last step before something outside is called.
-- KEYS[1] namespace   ARGV[1] quota   ARGV[2] hold id: a subtask or a part of one   ARGV[3] amount
-- ARGV[4] intent id   ARGV[5] note: what to do about it should nobody see its end
-- ARGV[6] subtask under whose claim it is done ('' for none)   ARGV[7] the fence of that claim
-- Reply: {1} held; {0, cap, used, held by others}; {2, note} an earlier intent under this hold was never settled;
--        {3, 'paused' or 'cancelled'} the job was stopped; {4} the claim was lost.
--        The same intent with another note replaces itself: what it announced is under way already.
local quota, holds, intents, amount = key('q', ARGV[1]), key('qh', ARGV[1]), key('i', ARGV[1]), tonumber(ARGV[3])
local mark = ARGV[4] .. '\n'
local left = redis.call('HGET', intents, ARGV[2])
if not left or string.sub(left, 1, #mark) ~= mark or left == mark .. ARGV[5] then
  local stop = redis.call('HGET', key('j', job_of(ARGV[2])), 'stop')
  if stop then return {3, stop} end
end
local fence, state = unpack(redis.call('HMGET', key('s', ARGV[6]), 'fence', 'state'))
if ARGV[6] ~= '' and fence ~= ARGV[7] then
  -- A zombie, paused for longer than its claim, may not pay. What became of the call that it had journalled is news as long
  -- as nobody has claimed since: whoever has may have settled it already.
  local news = left and left ~= mark .. ARGV[5] and string.sub(left, 1, #mark) == mark and (state == 'ready' or state == 'queued')
  if not news then return {4} end
end
if left and string.sub(left, 1, #mark) ~= mark then return {2, string.match(left, '\n(.*)')} end
local cap, used, held = unpack(redis.call('HMGET', quota, 'cap', 'used', 'held'))
local own = tonumber(redis.call('HGET', holds, ARGV[2]) or 0)
local others = tonumber(held or 0) - own
if cap and tonumber(used or 0) + others + amount > tonumber(cap) then
  return {0, tonumber(cap), tonumber(used or 0), others}
end
redis.call('HSET', holds, ARGV[2], int(amount))
redis.call('HSET', intents, ARGV[2], mark .. ARGV[5])
redis.call('HINCRBY', quota, 'held', int(amount - own))
return {1}
