-- Prelude of the scripts that journal an intent (hold.lua, join.lua, permit.lua).
-- Reply: {1} held; {0, cap, used, held by others, whose, 'day' or 'month', number of that} something is short (see _shared.lua);
--        {2, note} an earlier intent under this hold was never settled;
--        {3, 'paused' or 'cancelled'} the job was stopped; {4} the claim was lost.
--        The same intent with another note replaces itself: what it announced is under way already.
--
-- Why no cap is ever passed, whatever the calls cost: what an intent holds is the most that its call can cost, since the call is
-- sent with the limit on its output by which that was reckoned. Here, where alone `held` grows, used + held + amount <= cap is
-- looked at for the job, its tenant's and everybody's day and month, and held for all of them or for none. Where a call is
-- settled its hold goes and at most as much is used, in the same script and the same periods, so used + held falls or stays; a
-- guess is the whole hold, and the truth about it is less. A period that begins has nothing used or held; what was held in the
-- one before stays there. So used + held <= cap after every script, at each level; and once what is left is less than the least
-- that a call can be held for, nothing more is used.
local function journal(name, hold, most, id, note, subtask, claimed, words)
  local quota, holds, intents, amount = key('q', name), key('qh', name), key('i', name), tonumber(most)
  local mark = id .. '\n'
  local left = redis.call('HGET', intents, hold)
  local stop, tenant = unpack(redis.call('HMGET', key('j', job_of(hold)), 'stop', 'tenant'))
  if not left or string.sub(left, 1, #mark) ~= mark or left == mark .. note then
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
  say_caps(words)
  tenant = tenant or 'default'
  local shared, counted = shared_hold(hold), is_capped(tenant)
  if shared and shared.id ~= id then -- an earlier version settled that call
    held_more(shared, -shared.amount) -- looked at first: not every script writes at its end
    free_shared(hold, shared.id)
    shared = nil
  end
  local cap, used, held = unpack(redis.call('HMGET', quota, 'cap', 'used', 'held'))
  local own = tonumber(redis.call('HGET', holds, hold) or 0)
  local others, short = tonumber(held or 0) - own, nil
  if not left or amount > own then
    short = shorter(nil, tonumber(cap), tonumber(used or 0), others, amount, '', '', 0)
  end
  -- One that is under way stays in its periods, and out of what was not capped when it began.
  local more = amount - (shared and shared.amount or 0)
  if left and not shared then counted = false end
  if counted then
    shared = shared or since_now(tenant)
    if more > 0 then short = short_of_shared(short, shared, more) end
  end
  if short then return short end
  redis.call('HSET', holds, hold, int(amount))
  redis.call('HSET', intents, hold, mark .. note)
  redis.call('HINCRBY', quota, 'held', int(amount - own))
  if counted then
    local text = table.concat({int(amount), int(shared.day), int(shared.month), tenant}, ' ')
    redis.call('HSET', key('sh'), hold, mark .. text)
    in_shared('held', shared, more)
    held_more(shared, more)
  end
  return {1}
end
