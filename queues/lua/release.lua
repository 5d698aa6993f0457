-- Take ready subtasks out of a tier's backlog, fairly, as far as the window has room.
-- The window is twice what the live workers can run, so that a full worker finds the next subtask waiting.
-- KEYS[1] namespace   ARGV[1] tier   ARGV[2] most   ARGV[3] unsent_ms: how long until it counts as never sent
-- Reply: flat list of id, task, gate, gate_index (empty strings where there is none).
local tier, most, unsent_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local workers, backlog, virtual = key('w', tier), key('b', tier), key('v', tier)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
local window = 0
for _, worker in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
  window = window + 2 * tonumber(string.match(worker, '%d+$'))
end
local room = math.min(most, window - redis.call('SCARD', key('out', tier)))
local reply = {}

local function advance(set, member, from, by, clock_field)
  redis.call('HSET', virtual, clock_field, from)
  redis.call('ZADD', set, from + by, member)
end

local function queue(id, s, task, gate, index)
  move(id, tier, {tier = tier, state = 'ready'}, 'queued')
  redis.call('SADD', key('out', tier), id)
  redis.call('ZADD', key('watch'), now + unsent_ms, id)
  for _, field in ipairs({id, task, gate or '', index or ''}) do reply[#reply + 1] = field end
  room = room - 1
end

-- Suspects wait in a list of their own, and as many are out as can run apart: one in each worker (claim.lua). Where there are
-- many, as after workers of hundreds were lost twice, twice as many each time all that were out have ended without a death:
-- one among several in a worker would narrow down who it is, and counts for none of them.
local FEW, MOST = 16, 256
local suspects, batch, most_in_one = key('sus', tier), key('sus', tier, 'out'), key('sus', tier, 'most')
local function take_suspects()
  for _, id in ipairs(redis.call('SMEMBERS', batch)) do
    local state, at, kills = unpack(redis.call('HMGET', key('s', id), 'state', 'tier', 'kills'))
    local out = (state == 'queued' or state == 'running') and at == tier and tonumber(kills) >= SUSPECT_KILLS
    if not out then redis.call('SREM', batch, id) end
  end
  local waiting, out = redis.call('LLEN', suspects), redis.call('SCARD', batch)
  if waiting == 0 then return end
  local most = tonumber(redis.call('GET', most_in_one) or 1)
  if waiting <= FEW then
    most = 1
  elseif out == 0 then
    most = math.min(MOST, 2 * most)
  end
  redis.call('SET', most_in_one, most)
  for _ = 1, math.min(waiting, 2 * MOST) do
    if room <= 0 or out >= most * redis.call('ZCARD', workers) then break end
    local id = redis.call('LPOP', suspects)
    local s = key('s', id)
    local state, at, task, gate, index = unpack(redis.call('HMGET', s, 'state', 'tier', 'task', 'gate', 'gate_index'))
    local stop = redis.call('HGET', key('j', job_of(id)), 'stop')
    if state == 'ready' and at == tier and not stop then
      redis.call('SADD', batch, id)
      queue(id, s, task, gate, index)
      out = out + 1
    elseif stop == 'paused' then
      redis.call('RPUSH', suspects, id)
    end
  end
end

take_suspects()
local met = false
while room > 0 do
  local tenant = redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')
  if not tenant[1] then break end
  local lanes = key('b', tier, tenant[1])
  local lane = redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')
  if not lane[1] then
    redis.call('ZREM', backlog, tenant[1])
  else
    local id = redis.call('LPOP', key('b', tier, tenant[1], lane[1]))
    local s = id and key('s', id)
    local state, at, cost, task, gate, index, kills =
      unpack(id and redis.call('HMGET', s, 'state', 'tier', 'cost', 'task', 'gate', 'gate_index', 'kills') or {})
    if not id then
      redis.call('ZREM', lanes, lane[1])
    elseif state == 'ready' and at == tier and tonumber(kills) >= SUSPECT_KILLS then
      redis.call('RPUSH', suspects, id) -- claimed by an earlier message while it was ready, it had stayed in its lane
      met = true
    elseif state == 'ready' and at == tier then
      queue(id, s, task, gate, index)
      local share = tonumber(redis.call('HGET', key('j', lane[1]), 'share') or 1)
      advance(lanes, lane[1], tonumber(lane[2]), cost / share, tenant[1])
      advance(backlog, tenant[1], tonumber(tenant[2]), tonumber(cost), '*')
    end
  end
end
if met then take_suspects() end
return reply
