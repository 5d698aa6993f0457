-- End a claimed subtask: result, entries, freed holds and the readiness of what waited for it, together.
-- KEYS[1] namespace   ARGV[1] gate grace_ms
-- ARGV for each: id, fence, status, output, charges (JSON), 1 where it ends because its workers keep dying, else 0
-- Reply to each: 1 written, 0 the fence is not the current one (the charges are written all the same).
local grace_ms = tonumber(ARGV[1])
local TOLD_S = 60

-- A job of one subtask ends with it, and whoever asked for it is told.
local function end_job(id, tier, status, output, whom)
  local job, ended = job_of(id), status == 'ok' and 'completed' or 'failed'
  local document = key('job', job)
  if redis.call('HEXISTS', document, 'finished_at') == 0 then
    redis.call('HSET', document, 'status', ended, 'finished_at', string.format('%.3f', now / 1000))
    if ended == 'failed' then redis.call('HSET', document, 'error', 'its one subtask failed; its result says why') end
    happened(job, 'status', 'status', ended)
    no_longer_open(job)
  end
  local keep_ms, record = unpack(redis.call('HMGET', key('s', id), 'keep_ms', 'record'))
  redis.call('HINCRBY', key('t', job), 'calls', 0) -- it is counted there once this is over, and must not be there for ever
  keep_for(job, id, keep_ms)
  redis.call('PEXPIRE', key('r', record), keep_ms)
  redis.call('PEXPIRE', key('rp', record), keep_ms)
  if whom ~= '-' then
    redis.call('RPUSH', key('told', whom), table.concat({id, tier, status, output}, '\n'))
    redis.call('EXPIRE', key('told', whom), TOLD_S)
  end
end

local function finish(id, fence, status, output, charges, quarantined)
  local s = key('s', id)
  apply_charges(charges)
  local state, tier, current, gate, ends = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence', 'gate', 'ends'))
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
  if ends then end_job(id, tier, status, output, ends) end
  if redis.call('ZCARD', key('b', tier)) > 0 or redis.call('EXISTS', key('sus', tier)) == 1 then ring() end
  return 1
end
return each(1, 6, finish)
