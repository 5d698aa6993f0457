-- Prelude of the scripts that journal an intent (hold.lua, join.lua, permit.lua).
-- Reply: {1} held; {0, cap, used, held by others}; {2, note} an earlier intent under this hold was never settled;
--        {3, 'paused' or 'cancelled'} the job was stopped; {4} the claim was lost.
--        The same intent with another note replaces itself: what it announced is under way already.
local function journal(name, hold, most, id, note, subtask, claimed)
  local quota, holds, intents, amount = key('q', name), key('qh', name), key('i', name), tonumber(most)
  local mark = id .. '\n'
  local left = redis.call('HGET', intents, hold)
  if not left or string.sub(left, 1, #mark) ~= mark or left == mark .. note then
    local stop = redis.call('HGET', key('j', job_of(hold)), 'stop')
    if stop then return {3, stop} end
  end
  local fence, state = unpack(redis.call('HMGET', key('s', subtask), 'fence', 'state'))
  if subtask ~= '' and fence ~= claimed then
    -- A zombie, paused for longer than its claim, may not pay. What became of the call that it had journalled is news as long
    -- as nobody has claimed since: whoever has may have settled it already.
    local news = left and left ~= mark .. note and string.sub(left, 1, #mark) == mark and (state == 'ready' or state == 'queued')
    if not news then return {4} end
  end
  if left and string.sub(left, 1, #mark) ~= mark then return {2, string.match(left, '\n(.*)')} end
  local cap, used, held = unpack(redis.call('HMGET', quota, 'cap', 'used', 'held'))
  local own = tonumber(redis.call('HGET', holds, hold) or 0)
  local others = tonumber(held or 0) - own
  if cap and tonumber(used or 0) + others + amount > tonumber(cap) then
    return {0, tonumber(cap), tonumber(used or 0), others}
  end
  redis.call('HSET', holds, hold, int(amount))
  redis.call('HSET', intents, hold, mark .. note)
  redis.call('HINCRBY', quota, 'held', int(amount - own))
  return {1}
end
