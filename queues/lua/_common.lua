-- Prelude of every script here: key names, the server's clock, and the moves that several scripts share.
-- KEYS[1] is the namespace; every key is derived from it, so one store serves one keyspace (not Redis Cluster).
-- Keys: s:ID subtask (hash) · d:ID its dependents (set) · j:JOB job (hash) · c:JOB counts by tier and state (hash)
--       b:TIER… backlog: tenants, their jobs (zsets by virtual time), a job's subtasks (list) · out:TIER released (set)
--       watch: when the reconciler looks (zset) · wake: rings the dispatcher (list) · w:TIER workers (zset by expiry)
--       r:RECORD entries (hash) · rp:RECORD which of them are guesses (hash) · t:QUOTA their tally (hash)
--       sus:TIER suspects that wait, two workers having died at each (list), each marked so in its hash ('in_line')
--       sus:TIER:out those that run (set)
--       sus:TIER:most how many of them may be in one worker, but for those that are to be alone there (string)
--       beat: when anybody was here last, and until when claims are not taken away after nobody was (hash)
--       righted: what was not as it should be, by tier, since the store is there (hash)
--       lots:JOB the latest lot of each family of its lots (hash)
--       winding: cancelled jobs of which something may be left (set)
--       rx:QUOTA records that were kept elsewhere and dropped here (set)
--       tenants whose jobs were accepted (zset by when the last one was)
--       open:TENANT its jobs that have not ended (zset by time) · day:bytes:TENANT what it sent, by day (hash)
--       day|month:used|held:WHOM what a tenant ('*': all of them) has used and holds, by day and by month (hashes)
--       caps:WHOM what of that it may have, as was last said, until when that counts (hash)
--       sh holds that count there too, and since when: intent, amount, day, month, tenant (hash)
--       short jobs that were paused at a cap (set)
--       learned:SHELF books by when they were last written (zset) · learned:SHELF:BOOK discounted sums and their clocks (hash)
--       simulated: whether the simulated provider answers for the fleet's models, as its coordinator says (string)
--       spent: what all entries add up to since the store is there, by lane: its tallies and its amount (hash)
--       told:WHOM subtasks that ended, for whoever waits for them: id, tier, status and output, a line each (list)
--       m:JOB what was written down for a job, by name (hash) · ev:JOB what happened to it (stream)
--       q:QUOTA cap, used, held · qh:QUOTA holds (hash) · i:QUOTA intents, by hold: what was about to be used (hash)
local ns = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function key(...) return ns .. ':' .. table.concat({...}, ':') end
local function job_of(id) return string.match(id, '^[^/]+') end
-- Workers and the reconciler are here every few moments. When nobody was for so long, the store was away, and claims ran out
-- although their holders may live: until they have had the time to renew them, nobody takes one away. Who renews every third
-- of a lease has two thirds left at least: an absence of half a lease leaves them time to come back.
local AWAY_MS, LENIENT_MS = 3000, 4000
local function lenient_until(lease_ms)
  local at, ends = unpack(redis.call('HMGET', key('beat'), 'at', 'lenient_until'))
  if at and now - at > math.min(AWAY_MS, lease_ms / 2) then ends = now + LENIENT_MS end
  return tonumber(ends or 0)
end
local function beat(lease_ms) redis.call('HSET', key('beat'), 'lenient_until', lenient_until(lease_ms), 'at', now) end

local function int(n) return string.format('%.0f', n + 0) end -- minus zero is no integer to the server

-- Days and months are numbered, in UTC: since 1970, and since the year 0 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
local function today() return math.floor(clock[1] / 86400) end
local function this_month()
  local days = today() + 719468
  local of_era = days % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local from_march = math.floor((5 * (of_era - 365 * year - math.floor(year / 4) + math.floor(year / 100)) + 2) / 153)
  return (math.floor(days / 146097) * 400 + year) * 12 + from_march + 2
end
-- What is counted by period is kept for so many of them, and so long after its last change.
local PERIODS = {
  day = {base = key('day'), now = today(), kept = 3, kept_s = 3 * 86400},
  month = {base = key('month'), now = this_month(), kept = 2, kept_s = 62 * 86400},
}
-- Counters by period that were written in this script, and whose old fields are to be dropped.
local written = {}
local function trim()
  for of_it, per in pairs(written) do
    redis.call('HDEL', of_it, PERIODS[per].now - PERIODS[per].kept, PERIODS[per].now - PERIODS[per].kept - 1)
    redis.call('EXPIRE', of_it, PERIODS[per].kept_s)
  end
  written = {}
end

-- Counters of states and tallies. Within a script that does many things, and reads none of them, each is written once for all.
local together
local function increase(of_it, field, by)
  if not together then
    redis.call('HINCRBY', of_it, field, int(by))
  else
    local fields = together[of_it] or {}
    together[of_it] = fields
    fields[field] = (fields[field] or 0) + by
  end
end
local function write_counters()
  for of_it, fields in pairs(together) do
    for field, by in pairs(fields) do
      if by ~= 0 then redis.call('HINCRBY', of_it, field, int(by)) end
    end
  end
  together = nil
  trim()
end

-- For scripts that do the same for several: once for every group of `size` arguments behind the first `head`. The reply is a list
-- of their replies; what one of them fails of is the reply to that one.
local function each(head, size, one)
  local replies = {}
  together = {}
  for at = head + 1, #ARGV, size do
    local fine, reply = pcall(one, unpack(ARGV, at, at + size - 1))
    replies[#replies + 1] = (fine or type(reply) == 'table') and reply or {err = tostring(reply)}
  end
  write_counters()
  return replies
end

-- A subtask changes its state: the hash and the job's counts, together.
local function move(id, tier, from, to)
  redis.call('HSET', key('s', id), 'state', to, 'tier', tier)
  local counts = key('c', job_of(id))
  if from then increase(counts, from.tier .. ':' .. from.state, -1) end
  increase(counts, tier .. ':' .. to, 1)
end

-- Something was not as it should be and was put right; `queues/survey.py` names what.
local function count(tier, what) redis.call('HINCRBY', key('righted'), tier .. ':' .. what, 1) end

-- What happens to a job, for whoever follows it: so many of the latest, and some more. A value that is nil is not told. The id of
-- the event.
local MOST_EVENTS = 10000
local function happened(job, kind, ...) return redis.call('XADD', key('ev', job), 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, ...) end

-- Count what was sent, used or is held in a period; of one that is not kept any more nothing is counted.
local function in_period(per, what, whom, number, by)
  if by == 0 or number <= PERIODS[per].now - PERIODS[per].kept then return end
  local of_it = table.concat({PERIODS[per].base, what, whom}, ':')
  increase(of_it, int(number), by)
  written[of_it] = per
  if not together then trim() end
end

-- Quotas that jobs share: their tenant's and everybody's, by day and by month.
local EVERYBODY = '*'
local function in_shared(what, its, by)
  for _, whom in ipairs({its.tenant, EVERYBODY}) do
    in_period('day', what, whom, its.day, by)
    in_period('month', what, whom, its.month, by)
  end
end
local function since_now(tenant) return {tenant = tenant or 'default', day = PERIODS.day.now, month = PERIODS.month.now} end
-- What a hold keeps of them, which belongs to the periods in which it was taken; nil: nothing.
local function shared_hold(hold)
  local id, amount, day, month, tenant = string.match(redis.call('HGET', key('sh'), hold) or '', '^(.-)\n(%d+) (%d+) (%d+) (.*)$')
  return id and {id = id, amount = tonumber(amount), day = tonumber(day), month = tonumber(month), tenant = tenant}
end
-- That of a call that has ended is free again; what it was, unless another call has it by now.
local function free_shared(hold, id)
  local its = shared_hold(hold)
  if not its or its.id ~= id then return nil end
  redis.call('HDEL', key('sh'), hold)
  in_shared('held', its, -its.amount)
  return its
end

-- A job has its final status, or has none any more.
local function no_longer_open(job) redis.call('ZREM', key('open', redis.call('HGET', key('j', job), 'tenant') or 'default'), job) end
local function open_again(job) redis.call('ZADD', key('open', redis.call('HGET', key('j', job), 'tenant') or 'default'), now, job) end

-- All that is kept of a job of one subtask, for so long from now.
local OF_A_JOB = {'c', 'j', 'q', 'qh', 'i', 't', 'm', 'ev', 'rx', 'job'}
local function keep_for(job, id, ms)
  for _, kind in ipairs(OF_A_JOB) do redis.call('PEXPIRE', key(kind, job), ms) end
  redis.call('PEXPIRE', key('s', id), ms)
end

local function ring() if redis.call('LLEN', key('wake')) == 0 then redis.call('LPUSH', key('wake'), 1) end end

-- The hold of a call that has ended, unless a later call under the same hold has taken its place.
local function free_hold(quota, hold, id)
  local intents, holds = key('i', quota), key('qh', quota)
  local intent = redis.call('HGET', intents, hold)
  if intent and string.sub(intent, 1, #id + 1) == id .. '\n' then
    redis.call('HDEL', intents, hold)
    local held = redis.call('HGET', holds, hold)
    redis.call('HDEL', holds, hold)
    redis.call('HINCRBY', key('q', quota), 'held', int(-held))
  end
end

-- A lane that was idle starts at the tier's virtual time: idling earns no credit.
local function open_lane(tier, tenant, job)
  redis.call('ZADD', key('b', tier, tenant), 'NX', redis.call('HGET', key('v', tier), tenant) or 0, job)
  redis.call('ZADD', key('b', tier), 'NX', redis.call('HGET', key('v', tier), '*') or 0, tenant)
end

-- Every lane of a job in which something lies opens.
local function open_lanes(job, tiers)
  local tenant = redis.call('HGET', key('j', job), 'tenant') or 'default'
  for _, tier in ipairs(tiers) do
    if redis.call('LLEN', key('b', tier, tenant, job)) > 0 then open_lane(tier, tenant, job) end
  end
  ring()
end

-- A paused job goes on.
local function let_on(job, tiers)
  redis.call('HDEL', key('j', job), 'stop', 'why', 'short')
  redis.call('SREM', key('short'), job)
  open_lanes(job, tiers)
  happened(job, 'resumed')
end

-- Whether every guard holds: a JSON list of {key below the namespace, field, value}; value '': there is no such field.
local function hold_all(guards)
  for _, guard in ipairs(cjson.decode(guards)) do
    if (redis.call('HGET', key(guard[1]), guard[2]) or '') ~= guard[3] then return false end
  end
  return true
end

-- Two workers died at it, and it may be the cause. Suspects run apart, so that the next death counts against the one that
-- caused it, not against those that happened to be in the same process three times. Where they are many, as after workers
-- of hundreds were lost twice, they are tested in groups as of blood samples (Dorfman 1943): a group of them in a worker,
-- and only if that dies, which then counts for none of them, each of the group alone. Others that have not been suspected yet
-- may run beside them, so where several kill at the same time, one that does not may be given up with them.
local SUSPECT_KILLS = 2

-- Into the backlog of its tier; `quiet`: whoever put it there sends it.
local function make_ready(id, tier, from, front, quiet)
  local job = job_of(id)
  local tenant = redis.call('HGET', key('j', job), 'tenant') or 'default'
  move(id, tier, from, 'ready')
  -- One whose message was lost, or that went back with its job's pause, has been ready all the while.
  if not from or from.state ~= 'queued' then redis.call('HSET', key('s', id), 'ready_at', now) end
  local stopped = redis.call('HEXISTS', key('j', job), 'stop') == 1
  if not stopped and tonumber(redis.call('HGET', key('s', id), 'kills')) >= SUSPECT_KILLS then
    -- One whose message was lost has not had its turn; all others go to the end, or one that kills, or one that the budget
    -- is too short for, would keep the rest from theirs.
    redis.call(from.state == 'queued' and 'LPUSH' or 'RPUSH', key('sus', tier), id)
    redis.call('HSET', key('s', id), 'in_line', 1)
    ring()
    return
  end
  redis.call(front and 'LPUSH' or 'RPUSH', key('b', tier, tenant, job), id)
  if stopped then return end -- its lane opens again when the job is resumed
  open_lane(tier, tenant, job)
  if not quiet then ring() end
end

-- A claim ran out: whoever held it counts as dead and can no longer write.
local function take_back(id, tier)
  redis.call('SREM', key('out', tier), id)
  redis.call('ZREM', key('watch'), id)
  local s = key('s', id)
  if redis.call('HGET', s, 'beside') == '1' then
    redis.call('HSET', s, 'alone', 1) -- it was not the only suspect in its worker: nobody knows which it was
  else
    redis.call('HINCRBY', s, 'kills', 1)
  end
  redis.call('HINCRBY', s, 'fence', 1)
  redis.call('HSET', s, 'again', 1) -- the next message for it is one that is sent again
  count(tier, 'kill')
  count(tier, 'claim_expired')
  make_ready(id, tier, {tier = tier, state = 'running'}, true)
end

-- A need of `id` became final. A gate's body is delivered by its chord; the watch sends it if the chord was lost.
local function need_met(id, grace_ms)
  local s = key('s', id)
  if redis.call('HINCRBY', s, 'needs', -1) ~= 0 then return end
  local state, tier, gate = unpack(redis.call('HMGET', s, 'state', 'tier', 'members'))
  if state ~= 'waiting' then return end
  if gate then
    move(id, tier, {tier = tier, state = state}, 'queued')
    redis.call('HSET', s, 'ready_at', now)
    redis.call('SADD', key('out', tier), id)
    redis.call('ZADD', key('watch'), now + grace_ms, id)
  else
    make_ready(id, tier, {tier = tier, state = state}, false)
  end
end

-- A lesson is added to the sums of its book. To let every sum count half after a half-life, a new lesson counts twice as much as
-- one of a half-life ago: by 2^age, where the clock of each half-life goes on by its inverse with every lesson. What sums are
-- worth now is what is kept, over 2^age; before that is too large for a number, all are written anew.
local MOST_BOOKS, UNUSED_S, OLDEST = 500, 90 * 86400, 60
local function exact(n) return string.format('%.17g', n) end
local function learn(shelf, name, half_lives, sums)
  local books, book = key('learned', shelf), key('learned', shelf, name)
  local fields = {}
  for i in ipairs(half_lives) do
    fields[#fields + 1] = 'age:' .. i
    for sum in pairs(sums[i]) do fields[#fields + 1] = i .. ':' .. sum end
  end
  local kept, changed, at = redis.call('HMGET', book, unpack(fields)), {}, 1
  for i, half_life in ipairs(half_lives) do
    local age = tonumber(kept[at] or 0) + 1 / half_life
    if age > OLDEST then
      local all = redis.call('HGETALL', book)
      for field = 1, #all, 2 do
        if string.match(all[field], '^(%d+):') == tostring(i) then
          redis.call('HSET', book, all[field], exact(all[field + 1] * 2 ^ -age))
        end
      end
      for field = at + 1, #fields do
        if kept[field] and string.match(fields[field], '^(%d+):') == tostring(i) then kept[field] = kept[field] * 2 ^ -age end
      end
      age = 0
    end
    changed[#changed + 1], changed[#changed + 2] = fields[at], exact(age)
    at = at + 1
    for _, value in pairs(sums[i]) do
      changed[#changed + 1], changed[#changed + 2] = fields[at], exact(tonumber(kept[at] or 0) + value * 2 ^ age)
      at = at + 1
    end
  end
  redis.call('HSET', book, unpack(changed))
  redis.call('EXPIRE', book, UNUSED_S)
  redis.call('ZADD', books, now, name)
  redis.call('EXPIRE', books, UNUSED_S)
  if redis.call('ZCARD', books) > MOST_BOOKS then
    redis.call('DEL', key('learned', shelf, redis.call('ZPOPMIN', books)[1]))
  end
end

-- Entries are written once by id whatever the fence says: what was used was used, in the period in which it was held, whenever
-- that is known. A settled hold is freed, with the intent that was journalled under it. A provisional entry, a guess about a call
-- whose end nobody saw, gives way to a true one.
local function apply_charges(json)
  for _, c in ipairs(cjson.decode(json)) do
    local record, guesses = key('r', c.record), key('rp', c.record)
    local guess = redis.call('HGET', guesses, c.id)
    -- A record that was kept elsewhere takes nothing new: only the truth about a guess in it is still news.
    local closed = redis.call('SISMEMBER', key('rx', c.quota), c.record) == 1
    local new = not closed and redis.call('HSETNX', record, c.id, c.body) == 1
    local its = free_shared(c.hold, c.id)
    if new or (guess and not c.provisional) then
      local more = c.amount - (new and 0 or guess)
      redis.call('HINCRBY', key('q', c.quota), 'used', int(more))
      local guessed = not new and string.gmatch(redis.call('HGET', guesses, c.id .. '\n') or '', '%S+')
      if guessed then
        its = {day = tonumber(guessed() or 0), month = tonumber(guessed() or 0), tenant = guessed() or 'default'}
      end
      its = its or since_now(redis.call('HGET', key('j', c.quota), 'tenant'))
      in_shared('used', its, more)
      if c.lane and more ~= 0 then increase(key('spent'), c.lane .. ':amount', more) end
      if new then
        for field, n in pairs(c.tally) do
          increase(key('t', c.quota), field, n)
          if c.lane then increase(key('spent'), c.lane .. ':' .. field, n) end
        end
        if c.provisional then
          redis.call('HSET', guesses, c.id, int(c.amount), c.id .. '\n', its.day .. ' ' .. its.month .. ' ' .. its.tenant)
        end
      else
        redis.call('HSET', record, c.id, c.body)
        redis.call('HDEL', guesses, c.id, c.id .. '\n')
      end
      for _, l in ipairs(c.lessons or {}) do learn(l.shelf, l.book, l.half_lives, l.sums) end
    end
    free_hold(c.quota, c.hold, c.id)
  end
end
