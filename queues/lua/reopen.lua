-- Send final subtasks back for another round, as members of that round's gate.
-- KEYS[1] namespace   ARGV[1] JSON list of {id, gate, gate_index, tier, trail, needs = [id…]}, needs before what needs them
-- Reply: how many were reopened; one that is not final, or already a member of that gate, is left as it is.
local reopened = 0
for _, spec in ipairs(cjson.decode(ARGV[1])) do
  local s = key('s', spec.id)
  local state, tier, gate, status = unpack(redis.call('HMGET', s, 'state', 'tier', 'gate', 'status'))
  if state == 'final' and gate ~= spec.gate then
    reopened = reopened + 1
    redis.call('HINCRBY', key('c', job_of(spec.id)), tier .. ':' .. status, -1)
    redis.call('HINCRBY', s, 'fence', 1) -- a late answer of the round before can no longer be written
    redis.call('HSET', s, 'gate', spec.gate, 'gate_index', spec.gate_index, 'trail', spec.trail, 'kills', 0, 'sends', 0)
    local needs = 0
    for _, need in ipairs(spec.needs) do
      if redis.call('HGET', key('s', need), 'state') ~= 'final' then needs = needs + redis.call('SADD', key('d', need), spec.id) end
    end
    redis.call('HSET', s, 'needs', needs)
    if needs > 0 then
      move(spec.id, spec.tier, {tier = tier, state = state}, 'waiting')
    else
      make_ready(spec.id, spec.tier, {tier = tier, state = state}, true)
    end
  end
end
return reopened
