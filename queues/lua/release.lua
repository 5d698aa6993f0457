-- Take ready subtasks out of a tier's backlog, fairly, as far as the window has room.
-- The window is a little more than what the live workers can run: a worker that has just ended one finds the next waiting, and
-- who comes later, and is due, does not wait long behind those that were released before.
-- What could not start soon, for the limits of its account, its pause or an outage, stays where who comes later may overtake.
-- KEYS[1] namespace   ARGV[1] account that the tier's work waits for ('': none)
-- ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)  ARGV[5] 1: the limits are to be found out
-- ARGV[6] tier   ARGV[7] most   ARGV[8] unsent_ms: how long until it counts as never sent
-- ARGV[9] 1: the work goes elsewhere in an outage   ARGV[10…] all tiers whose work waits for this account
-- A job that begins slowly has at first so many out, then twice as many as have ended, until enough have: what comes of the first
-- tells where the others should go. A lane that may send nothing is passed over, and has its turn a little after its equals.
-- Reply: flat list of id, task, gate, gate_index (empty strings where there is none).
local tier, most, unsent_ms = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local workers, backlog, virtual = key('w', tier), key('b', tier), key('v', tier)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
local window = 0
for _, worker in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
  window = window + math.ceil(1.125 * tonumber(string.match(worker, '%d+$')))
end
local room = math.min(most, window - redis.call('SCARD', key('out', tier)))
local reply = {}

-- So far ahead of its start a subtask leaves the backlog: its message has to find a worker, and that one its permit.
local AHEAD_MS = 1000
-- Released a little faster than they may start: some come back, and what is ahead by more than that is held anyway.
local FASTER = 1.25
-- Calls of an account with a limit on tokens, of which none tells yet how many tokens they take.
local UNKNOWN = 10
-- Subtasks a minute that the account's limits let start, 0 where it has none.
local a_minute = 0
local function startable()
  if state.broken >= BREAKS_AT then
    if ARGV[9] == '1' then return room end
    -- One at a time, to try whether the outage is over.
    local may = state.open_until <= now and state.probe_until <= now and state.release_at <= now
    if may then state.release_at = now + AHEAD_MS end
    return may and 1 or 0
  end
  local rpm, tpm = limits()
  local in_flight, free = tonumber(ARGV[4]), math.huge
  if in_flight > 0 then
    -- Some may wait beside those that call, so that a place that is given back is taken at once. Those that are out and hold
    -- no permit are about to ask for one, or do something else for a while: they do not keep the last place from others.
    local out, permits = 0, redis.call('ZCOUNT', flying, now, '+inf')
    for i = 10, #ARGV do out = out + redis.call('SCARD', key('out', ARGV[i])) end
    free = math.max(math.ceil(1.25 * in_flight) - math.max(out, permits), permits == 0 and 1 or 0)
  end
  a_minute = rpm
  if tpm > 0 and state.all_tokens > 0 then a_minute = least(rpm, tpm * state.all_n / state.all_tokens) end
  if tpm > 0 and state.all_tokens == 0 then free = math.min(free, UNKNOWN) end
  local from = math.max(now, state.paused_until, state.requests_at, state.tokens_at, state.last, a_minute > 0 and state.release_at or 0)
  if from >= now + AHEAD_MS then return 0 end
  if a_minute > 0 then free = math.min(free, math.floor((now + AHEAD_MS - from) / WINDOW_MS * a_minute) + 1) end
  return free
end
if account ~= '' and room > 0 then room = math.min(room, startable()) end

-- What was released of a job is counted, and looked after, together.
local function queue_all(job, ids)
  if #ids == 0 then return end
  local counts = key('c', job)
  redis.call('HINCRBY', counts, tier .. ':ready', -#ids)
  redis.call('HINCRBY', counts, tier .. ':queued', #ids)
  redis.call('SADD', key('out', tier), unpack(ids))
  local watched = {}
  for _, id in ipairs(ids) do
    watched[#watched + 1] = now + unsent_ms
    watched[#watched + 1] = id
  end
  redis.call('ZADD', key('watch'), unpack(watched))
end
local function queue(id, s, task, gate, index)
  redis.call('HSET', s, 'state', 'queued')
  for _, field in ipairs({id, task, gate or '', index or ''}) do reply[#reply + 1] = field end
  room = room - 1
end

-- Suspects wait in a line of their own, and as many are out as may run at once: one in each worker, or a group of them where
-- it would take more than so many turns until all of them have had one. The best size for one culprit is the square root.
local TURNS, LOOKED_AT = 3, 500
local suspects, batch, most_in_one = key('sus', tier), key('sus', tier, 'out'), key('sus', tier, 'most')
local function take_suspects()
  local waiting, workers_here = redis.call('LLEN', suspects), redis.call('ZCARD', workers)
  if waiting == 0 then return end
  local out = {}
  for _, id in ipairs(redis.call('SMEMBERS', batch)) do
    local state, at, kills, alone = unpack(redis.call('HMGET', key('s', id), 'state', 'tier', 'kills', 'alone'))
    if (state == 'queued' or state == 'running') and at == tier and tonumber(kills) >= SUSPECT_KILLS then
      out[#out + 1] = alone
    else
      redis.call('SREM', batch, id)
    end
  end
  local most = 1
  if waiting + #out > TURNS * workers_here then most = math.ceil(math.sqrt(waiting + #out)) end
  redis.call('SET', most_in_one, most)
  local free = most * workers_here -- one that is to be alone takes the place of a group
  for _, alone in ipairs(out) do free = free - (alone and most or 1) end
  for _ = 1, math.min(waiting, LOOKED_AT) do
    local id = redis.call('LINDEX', suspects, 0)
    local s = key('s', id)
    local state, at, task, gate, index, alone =
      unpack(redis.call('HMGET', s, 'state', 'tier', 'task', 'gate', 'gate_index', 'alone'))
    local stop = redis.call('HGET', key('j', job_of(id)), 'stop')
    local places = alone and most or 1
    local due = state == 'ready' and at == tier and not stop
    if due and (room <= 0 or free < places) then break end
    redis.call('LPOP', suspects)
    if state then redis.call('HDEL', s, 'in_line') end
    if due then
      redis.call('SADD', batch, id)
      queue(id, s, task, gate, index)
      queue_all(job_of(id), {id})
      free = free - places
    elseif stop == 'paused' then -- it waits in its lane until the job is resumed
      redis.call('RPUSH', key('b', tier, redis.call('HGET', key('j', job_of(id)), 'tenant') or 'default', job_of(id)), id)
    end
  end
end

-- How many more of a job that begins slowly may be out. `slow`: how many at first, in which of its phases, and in which tiers;
-- `since`: that, and how many had ended when it began, or that it is over.
local ENOUGH = 200
local function may_send(job, slow, since)
  local first, tiers = string.match(slow, '^(%d+) %d+ (.*)$')
  local function is_meant(its) return string.find(',' .. tiers .. ',', ',' .. its .. ',', 1, true) end
  if not is_meant(tier) then return math.huge end
  local out, ended, counts = 0, 0, redis.call('HGETALL', key('c', job))
  for i = 1, #counts, 2 do
    local its, state = string.match(counts[i], '^(.*):(%l+)$')
    if its and is_meant(its) then
      if state == 'queued' or state == 'running' then out = out + counts[i + 1] end
      if state == 'final' then ended = ended + counts[i + 1] end
    end
  end
  local began, before = string.match(since or '', '^(.*) (%w+)$')
  if began ~= slow then
    before = ended
    redis.call('HSET', key('j', job), 'slow_since', slow .. ' ' .. int(ended))
  end
  if before == 'over' or ended - before >= ENOUGH then
    redis.call('HSET', key('j', job), 'slow_since', slow .. ' over')
    redis.call('HDEL', key('j', job), 'slow')
    return math.huge
  end
  return math.max(tonumber(first), 2 * (ended - before)) - out
end

take_suspects()
local met = 0
local passed, MOST_PASSED = {}, 100
-- Takes from a job as long as it is its turn: `until_job` and `until_tenant` are the times of those that come next.
local function serve(tenant, lanes, job, from, until_job, tenant_from, until_tenant)
  local ids, share, weight, slow, since = {}, unpack(redis.call('HMGET', key('j', job), 'share', 'weight', 'slow', 'slow_since'))
  share, weight = tonumber(share or 1), tonumber(weight or 1)
  local at, tenant_at, last, tenant_last = from, tenant_from, nil, nil
  local may = slow and may_send(job, slow, since) or math.huge
  if may <= 0 then
    redis.call('ZREM', lanes, job)
    passed[#passed + 1] = {tenant = tenant, job = job, at = from + 1, tenant_at = tenant_from}
    return
  end
  repeat
    local id = redis.call('LPOP', key('b', tier, tenant, job))
    local s = id and key('s', id)
    local state, its_tier, cost, task, gate, index, kills, in_line =
      unpack(id and redis.call('HMGET', s, 'state', 'tier', 'cost', 'task', 'gate', 'gate_index', 'kills', 'in_line') or {})
    if not id then
      redis.call('ZREM', lanes, job)
      at = nil
    elseif state == 'ready' and its_tier == tier and tonumber(kills) >= SUSPECT_KILLS then
      -- Its job was paused; or it had stayed in its lane, claimed by an earlier message while it was ready, or is there from
      -- an earlier version.
      if not in_line then
        redis.call('RPUSH', suspects, id)
        redis.call('HSET', s, 'in_line', 1)
      end
      met = met + 1
    elseif state == 'ready' and its_tier == tier then
      queue(id, s, task, gate, index)
      ids[#ids + 1] = id
      last, tenant_last = at, tenant_at
      at, tenant_at = at + cost / share, tenant_at + cost / weight
    end
  until not at or room <= 0 or #ids >= may or met >= LOOKED_AT or at >= until_job or tenant_at >= until_tenant
  queue_all(job, ids)
  if last then
    redis.call('HSET', virtual, tenant, last, '*', tenant_last)
    if at then redis.call('ZADD', lanes, at, job) end
    redis.call('ZADD', backlog, tenant_at, tenant)
  end
end
while room > 0 and met < LOOKED_AT and #passed < MOST_PASSED do
  local tenants = redis.call('ZRANGE', backlog, 0, 1, 'WITHSCORES')
  if not tenants[1] then break end
  local lanes = key('b', tier, tenants[1])
  local jobs = redis.call('ZRANGE', lanes, 0, 1, 'WITHSCORES')
  if not jobs[1] then
    redis.call('ZREM', backlog, tenants[1])
  else
    serve(tenants[1], lanes, jobs[1], tonumber(jobs[2]), tonumber(jobs[4]) or math.huge,
      tonumber(tenants[2]), tonumber(tenants[4]) or math.huge)
  end
end
for _, lane in ipairs(passed) do
  redis.call('ZADD', key('b', tier, lane.tenant), 'NX', lane.at, lane.job)
  redis.call('ZADD', backlog, 'NX', lane.tenant_at, lane.tenant)
end
if met > 0 then take_suspects() end
if account ~= '' then
  if a_minute > 0 then state.release_at = math.max(now, state.release_at) + #reply / 4 * WINDOW_MS / (FASTER * a_minute) end
  if #reply > 0 then save() end
end
if met == LOOKED_AT then ring() end
return reply
