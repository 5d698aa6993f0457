-- End a claimed subtask: result, entries, freed holds and the readiness of what waited for it, together.
-- KEYS[1] namespace   ARGV[1] gate grace_ms
-- ARGV for each: id, fence, status, output, charges (JSON), 1 where it ends because its workers keep dying, else 0
-- Reply to each: 1 written, 0 the fence is not the current one (the charges are written all the same).
local grace_ms = tonumber(ARGV[1])
local function finish(id, fence, status, output, charges, quarantined)
  local s = key('s', id)
  apply_charges(charges)
  local state, tier, current, gate = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence', 'gate'))
  if current == fence and state == 'final' then return 1 end -- the reply was lost and this is the same call again
  if state ~= 'running' or current ~= fence then return 0 end
  redis.call('HSET', s, 'status', status, 'output', output)
  move(id, tier, {tier = tier, state = state}, 'final')
  increase(key('c', job_of(id)), tier .. ':' .. status, 1)
  if quarantined == '1' then count(tier, 'quarantined') end
  redis.call('SREM', key('out', tier), id)
  redis.call('ZREM', key('watch'), id)
  for _, dependent in ipairs(redis.call('SMEMBERS', key('d', id))) do need_met(dependent, grace_ms) end
  redis.call('DEL', key('d', id))
  if gate then need_met(gate, grace_ms) end
  if redis.call('ZCARD', key('b', tier)) > 0 or redis.call('EXISTS', key('sus', tier)) == 1 then ring() end
  return 1
end
return each(1, 6, finish)
