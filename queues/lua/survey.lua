-- Count what stands where, for whoever watches the fleet. Changes nothing, and looks at a bounded number of things.
-- KEYS[1] namespace   ARGV[1] most lanes of one tier   ARGV[2] most overdue   ARGV[3] job ('': none)   ARGV[4…] tiers
-- Reply: {watched, overdue, ms by which the oldest is, gates among the overdue, what was put right and the job's counts as flat lists,
--         how many calls of the job are under way, then for each tier {ready, out, workers, capacity, affordable}, and ms by which
--         the oldest gate is overdue}.
local watch = key('watch')
-- Of so many subtasks of a job, how many its quota lets run: as often as what is left of it holds what one that runs holds. One may
-- always, if only to find that nothing is left.
local function affordable_of(job, ready)
  local cap, used, held = unpack(redis.call('HMGET', key('q', job), 'cap', 'used', 'held'))
  if not cap then return ready end
  held = tonumber(held or 0)
  local left = tonumber(cap) - tonumber(used or 0) - held
  local most = left > 0 and ready or 0
  if left > 0 and held > 0 then most = math.floor(left * redis.call('HLEN', key('qh', job)) / held) end
  return math.min(ready, math.max(1, most))
end
-- Ready on a tier, and of that what is affordable. A lane that is not looked at has one at least, which is all that a job of one
-- subtask has.
local function ready_on(tier)
  local ready, left = redis.call('LLEN', key('sus', tier)), tonumber(ARGV[1])
  local affordable, tenants = ready, redis.call('ZRANGE', key('b', tier), 0, left - 1)
  local more = redis.call('ZCARD', key('b', tier)) - #tenants
  for _, tenant in ipairs(tenants) do
    local jobs = left > 0 and redis.call('ZRANGE', key('b', tier, tenant), 0, left - 1) or {}
    for _, job in ipairs(jobs) do
      local its = redis.call('LLEN', key('b', tier, tenant, job))
      ready = ready + its
      if its > 0 then affordable = affordable + affordable_of(job, its) end
    end
    left = left - #jobs
    more = more + redis.call('ZCARD', key('b', tier, tenant)) - #jobs
  end
  return ready + more, affordable + more
end

local oldest = redis.call('ZRANGE', watch, 0, 0, 'WITHSCORES')[2]
local gates, oldest_gate = 0, now
local overdue = redis.call('ZRANGE', watch, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
for i = 1, #overdue, 2 do
  local state, members = unpack(redis.call('HMGET', key('s', overdue[i]), 'state', 'members'))
  if members and state == 'queued' then gates, oldest_gate = gates + 1, math.min(oldest_gate, overdue[i + 1]) end
end
local reply = {
  redis.call('ZCARD', watch), redis.call('ZCOUNT', watch, '-inf', now),
  math.max(0, now - tonumber(oldest or now)), gates, redis.call('HGETALL', key('righted')),
  redis.call('HGETALL', key('c', ARGV[3])), redis.call('HLEN', key('i', ARGV[3])),
}
for i = 4, #ARGV do
  local workers, capacity = redis.call('ZRANGE', key('w', ARGV[i]), '(' .. int(now), '+inf', 'BYSCORE'), 0
  for _, worker in ipairs(workers) do capacity = capacity + tonumber(string.match(worker, '%d+$')) end
  local ready, affordable = ready_on(ARGV[i])
  reply[#reply + 1] = {ready, redis.call('SCARD', key('out', ARGV[i])), #workers, capacity, affordable}
end
reply[#reply + 1] = now - oldest_gate
return reply
