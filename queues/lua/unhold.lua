-- Book what is held of shared quotas for calls whose intent is gone: their job was dropped, or an earlier version, which knows no
-- shared quotas, settled them. What they cost is kept nowhere any more, so they are booked at their worst: freed, they would be
-- money that no cap ever hears of.
-- KEYS[1] namespace   ARGV[1] cursor   ARGV[2] how many to look at, about
-- Reply: {cursor to go on from, '0' at the end; how many were booked}.
local found, booked = redis.call('HSCAN', key('sh'), ARGV[1], 'COUNT', ARGV[2]), 0
for i = 1, #found[2], 2 do
  local hold = found[2][i]
  local its, intent = shared_hold(hold), redis.call('HGET', key('i', job_of(hold)), hold)
  if its and string.sub(intent or '', 1, #its.id + 1) ~= its.id .. '\n' then
    lose_shared(hold, its)
    booked = booked + 1
  end
end
return {found[1], booked}
