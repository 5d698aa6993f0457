-- Take the right to work on a subtask. Every claim has a higher fence than the one before it; it is the time in
-- microseconds, so that a store that lost its last second with the power, or that had forgotten the subtask, does not
-- give out a fence that somebody still holds.
-- KEYS[1] namespace   ARGV[1] tier   ARGV[2] lease_ms   ARGV[3] worker   then for each: id, owner
-- Reply to each: {'run', fence, payload, trail, kills, claims, ms for which it was ready (-1: not known, or it ran before)}
-- or one of {'final', status} {'busy'} {'elsewhere'} {'gone'}.
-- The owner is a token of this one attempt to claim: asking again after a lost reply gives the same claim.
local here, lease_ms, worker = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local function claim(id, owner)
  local s = key('s', id)
  local state, tier, status, holder, kills, ready_at =
    unpack(redis.call('HMGET', s, 'state', 'tier', 'status', 'owner', 'kills', 'ready_at'))
  local function granted(fence)
    local payload, trail, deaths, claims = unpack(redis.call('HMGET', s, 'payload', 'trail', 'kills', 'claims'))
    local waited = state ~= 'running' and ready_at and math.max(0, now - ready_at) or -1
    return {'run', tonumber(fence), payload, trail or '', tonumber(deaths), tonumber(claims), waited}
  end
  if not state then
    redis.call('SREM', key('out', here), id) -- an earlier version left it there
    return {'gone'}
  end
  if state == 'final' then return {'final', status} end
  if tier ~= here then return {'elsewhere'} end
  if state == 'waiting' or state == 'ready' and tonumber(kills) >= SUSPECT_KILLS then return {'busy'} end
  local stop = redis.call('HGET', key('j', job_of(id)), 'stop')
  if stop and state ~= 'running' then
    redis.call('SREM', key('out', tier), id)
    redis.call('SREM', key('sus', tier, 'out'), id)
    redis.call('ZREM', key('watch'), id)
    if state == 'queued' and stop == 'paused' then make_ready(id, tier, {tier = tier, state = state}, true) end
    return {stop == 'paused' and 'busy' or 'gone'}
  end
  if state == 'running' then
    if holder == owner then return granted(redis.call('HGET', s, 'fence')) end
    local expires = redis.call('ZSCORE', key('watch'), id)
    if expires and tonumber(expires) > now or lenient_until(lease_ms) > now then return {'busy'} end
    if kills + 1 >= SUSPECT_KILLS then
      take_back(id, tier)
      return {'busy'}
    end
    redis.call('HINCRBY', s, 'kills', 1)
    count(tier, 'kill')
    count(tier, 'taken_over')
  elseif state == 'ready' then
    redis.call('HDEL', s, 'again') -- an earlier message came after all
  end
  -- The suspects that run in this worker already.
  local beside = {}
  if tonumber(kills) >= SUSPECT_KILLS then
    local most = redis.call('HEXISTS', s, 'alone') == 1 and 1 or tonumber(redis.call('GET', key('sus', tier, 'most')) or 1)
    for _, other in ipairs(redis.call('SMEMBERS', key('sus', tier, 'out'))) do
      local its_state, its_worker, alone = unpack(redis.call('HMGET', key('s', other), 'state', 'worker', 'alone'))
      if other ~= id and its_state == 'running' and its_worker == worker then
        beside[#beside + 1] = other
        if alone then most = 1 end
      end
    end
    if #beside >= most then -- another worker's turn
      redis.call('SREM', key('out', tier), id)
      redis.call('ZREM', key('watch'), id)
      move(id, tier, {tier = tier, state = state}, 'ready')
      redis.call('LPUSH', key('sus', tier), id) -- the next, but without a ring: at once it might come here again
      redis.call('HSET', s, 'in_line', 1)
      return {'busy'}
    end
    for _, other in ipairs(beside) do redis.call('HSET', key('s', other), 'beside', 1) end
  end
  move(id, tier, {tier = tier, state = state}, 'running')
  redis.call('SADD', key('out', tier), id)
  redis.call('ZADD', key('watch'), now + lease_ms, id)
  local fence = int(math.max(redis.call('HGET', s, 'fence') + 1, clock[1] * 1000000 + clock[2]))
  redis.call('HINCRBY', s, 'claims', 1)
  redis.call('HSET', s, 'owner', owner, 'worker', worker, 'beside', #beside > 0 and 1 or 0, 'sends', 0, 'fence', fence)
  return granted(fence)
end
return each(3, 2, claim)
