-- Add subtasks; one that exists is left as it is, so adding again after a crash is free.
-- KEYS[1] namespace
-- ARGV[1] JSON list of {id, task, tier, payload, trail, cost, needs = [id…], gate?, gate_index?, members?}
-- ARGV[2] guards (JSON; see _common.lua)
-- Reply: how many were new; none where a guard does not hold.
if not hold_all(ARGV[2]) then return 0 end
-- Fences start at the time: a worker of a version that only counts them up gives out none of an earlier round's.
local fence = int(clock[1] * 1000000 + clock[2])
local added = 0
together = {}
for _, spec in ipairs(cjson.decode(ARGV[1])) do
  local s = key('s', spec.id)
  -- Behind a gate whose members have all ended nothing is added: they were forgotten, and would run a second time.
  local open = not spec.gate or redis.call('HGET', key('s', spec.gate), 'state') == 'waiting'
  if open and redis.call('EXISTS', s) == 0 then
    added = added + 1
    local needs = spec.members or 0
    for _, need in ipairs(spec.needs) do
      local state = redis.call('HGET', key('s', need), 'state')
      if state ~= 'final' then
        needs = needs + redis.call('SADD', key('d', need), spec.id)
      end
    end
    redis.call('HSET', s, 'task', spec.task, 'payload', spec.payload, 'cost', spec.cost, 'needs', needs,
      'fence', fence, 'kills', 0, 'sends', 0, 'trail', spec.trail)
    if spec.gate then redis.call('HSET', s, 'gate', spec.gate, 'gate_index', spec.gate_index) end
    if spec.members then redis.call('HSET', s, 'members', spec.members) end
    if needs > 0 then move(spec.id, spec.tier, nil, 'waiting') else make_ready(spec.id, spec.tier, nil, false) end
  end
end
write_counters()
return added
