-- Free what is held of shared quotas for calls whose intent is gone. Where their job is still here an earlier version, which knows no
-- such holds, has settled them and counted what they used. Where it is not, it was dropped with what was to be done about them:
-- nobody settled them, they may have been made, and what they held is used, or no cap would ever hear of it.
-- KEYS[1] namespace   ARGV[1] cursor   ARGV[2] how many to look at, about
-- Reply: {cursor to go on from, '0' at the end; how many were freed}.
local found, freed = redis.call('HSCAN', key('sh'), ARGV[1], 'COUNT', ARGV[2]), 0
for i = 1, #found[2], 2 do
  local hold = found[2][i]
  local its, intent = shared_hold(hold), redis.call('HGET', key('i', job_of(hold)), hold)
  if its and string.sub(intent or '', 1, #its.id + 1) ~= its.id .. '\n' then
    free_shared(hold, its.id)
    if redis.call('EXISTS', key('q', job_of(hold))) == 0 then in_shared('used', its, its.amount) end
    freed = freed + 1
  end
end
return {found[1], freed}
