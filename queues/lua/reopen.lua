-- Send final subtasks back for another round, as members of that round's gate.
-- KEYS[1] namespace   ARGV[1] JSON list of {id, gate, gate_index, tier, trail}
-- Reply: how many were reopened; one that is not final, or already a member of that gate, is left as it is.
local reopened = 0
for _, spec in ipairs(cjson.decode(ARGV[1])) do
  local s = key('s', spec.id)
  local state, tier, gate, status = unpack(redis.call('HMGET', s, 'state', 'tier', 'gate', 'status'))
  if state == 'final' and gate ~= spec.gate then
    reopened = reopened + 1
    redis.call('HINCRBY', key('c', job_of(spec.id)), tier .. ':' .. status, -1)
    redis.call('HSET', s, 'gate', spec.gate, 'gate_index', spec.gate_index, 'trail', spec.trail)
    make_ready(spec.id, spec.tier, {tier = tier, state = state}, true)
  end
end
return reopened
