-- Prelude of the scripts that deal in permits (permit*.lua, release.lua): the log of an account's starts, what may be learned
-- of it, and whether its vendor has an outage.
-- Keys: p:ACCOUNT hash: state (a MessagePack map; what is not in it is 0): paused_until, requests_at and tokens_at (when the
--         next is due, evenly spaced), last (latest start), rpm and tpm (as the vendor told at told_at), found (requests/min, as
--         tried out), met (it has refused before), cut_at (when found was cut),
--         left_n and left_tokens (of starts that became a minute old and whose places have not been given away yet),
--         all_n and all_tokens (of the log), others_n and others_tokens (what the vendor counts beyond our starts) as of
--         others_n_at and others_tokens_at,
--         took (how long calls took and what they counted, by what they were for: a map to {ms, tokens, of how many}),
--         worth (what calls count of the most they may), over (by how much less than was expected of them calls counted of late),
--         allowed_until (until when calls count with all the output that they are allowed, the vendor having refused one),
--         broken (calls that broke since one was answered), broken_at (when that became an outage), open_until and open_for (of
--         the breaker), answered (once a call was), release_at (when the next subtask may leave the backlog for this account),
--         probe_until (when the lease of the permit ends that tries whether an outage is over; its id is in the field probe),
--         for the marks 'due' and 'old' at (place in the log), past (start of the entry before it), n and tokens (from it on)
--       p:ACCOUNT:line starts in order, 'moment id' (list) · p:ACCOUNT:begun id -> 'moment tokens of-the-minute-that-ends-with-it'
--         (hash); an entry of the line without its like there is void · p:ACCOUNT:flying permits by the end of their lease (zset)
local account = ARGV[1]
local p, log, starts, flying = key('p', account), key('p', account, 'line'), key('p', account, 'begun'), key('p', account, 'flying')
-- A minute, and what calls may be late or early by on their way.
local WINDOW_MS = 60300
-- What an account whose limits nobody knows begins with, until its vendor tells them or refuses.
local FIRST_RPM = 60
-- What a vendor told holds for so long: it tells again with every answer, and may change what it sells.
local TOLD_MS = 600000
-- What was not used is made up for as far as this goes: so much of the limit may start at once.
local BURST_MS = 1000
-- So many calls that broke one after the other are an outage: no further one starts for a while, then one tries alone.
local BREAKS_AT, FIRST_OPEN_MS, LONGEST_OPEN_MS = 10, 1000, 60000

local packed = redis.call('HGET', p, 'state')
local state = setmetatable(packed and cmsgpack.unpack(packed) or {}, {__index = function() return 0 end})
local function save() redis.call('HSET', p, 'state', cmsgpack.pack(state)) end

-- What a call is expected to count that may count so many tokens at most: as those before it did, the most of them, the
-- longer ago the less.
local FORGETS = 0.98
local function worth() return state.worth > 0 and state.worth or 1 end
local function expected(tokens) return math.ceil(tokens * worth()) end

-- Even spacing, but a start that becomes a minute old may be followed by another at once: starts come as fast as their like
-- leave the minute, and never slower than evenly. `field` is requests_at or tokens_at (Generic Cell Rate Algorithm, with the
-- theoretical arrival time moved back by what left).
local function due(field, left, limit)
  state[field] = math.max(now - BURST_MS, state[field] - (limit > 0 and state[left] * WINDOW_MS / limit or 0))
  state[left] = 0
  return state[field]
end

-- Moment, id and tokens of an entry; no tokens: it is void.
local function entry(raw)
  if not raw then return end
  local moment, id = string.match(raw, '^(%S+) (.*)$')
  local found = redis.call('HGET', starts, id)
  local at, tokens = string.match(found or '', '^(%S+) (%S+)')
  return tonumber(moment), id, at == moment and tonumber(tokens) or nil
end

-- The marks, by what each is in the state.
local MARKS = {}
for _, name in ipairs({'due', 'old'}) do
  MARKS[name] = {at = name .. '_at', past = name .. '_past', n = name .. '_n', tokens = name .. '_tokens'}
end

-- Count `n` starts and `tokens` more, for all marks that have not gone past the moment.
local function tell(moment, n, tokens)
  state.all_n, state.all_tokens = state.all_n + n, state.all_tokens + tokens
  for _, mark in pairs(MARKS) do
    if moment > state[mark.past] then
      state[mark.n], state[mark.tokens] = state[mark.n] + n, state[mark.tokens] + tokens
    end
  end
end

-- Move a mark past its next entry.
local function step(mark, moment, tokens)
  state[mark.at], state[mark.past] = state[mark.at] + 1, moment
  if tokens then state[mark.n], state[mark.tokens] = state[mark.n] - 1, state[mark.tokens] - tokens end
end

-- Drop what is over a minute old; move `due` past what has started.
local function go_on()
  if state.last > 0 and state.last <= now - WINDOW_MS then -- all of it
    redis.call('UNLINK', log, starts)
    for _, name in ipairs({'last', 'all_n', 'all_tokens', 'due_at', 'due_past', 'due_n', 'due_tokens', 'old_at', 'old_past', 'old_n',
      'old_tokens'}) do state[name] = 0 end
    return
  end
  while true do
    local moment, id, tokens = entry(redis.call('LINDEX', log, 0))
    if not moment or moment > now - WINDOW_MS then break end
    for _, mark in pairs(MARKS) do
      if state[mark.at] == 0 then step(mark, moment, tokens) end
      state[mark.at] = state[mark.at] - 1
    end
    redis.call('LPOP', log)
    if tokens then
      redis.call('HDEL', starts, id)
      state.all_n, state.all_tokens = state.all_n - 1, state.all_tokens - tokens
      if moment + WINDOW_MS > state.paused_until then
        state.left_n, state.left_tokens = state.left_n + 1, state.left_tokens + tokens
      end
    end
  end
  while true do
    local moment, _, tokens = entry(redis.call('LINDEX', log, state.due_at))
    if not moment or moment > now then break end
    step(MARKS.due, moment, tokens)
  end
end

-- Write a start down behind all others.
local function note(moment, id, tokens)
  local text = string.format('%.3f', moment)
  redis.call('RPUSH', log, text .. ' ' .. id)
  redis.call('HSET', starts, id, text .. ' ' .. int(tokens) .. ' ' .. int(state.old_tokens + tokens))
  state.last = tonumber(text)
  tell(state.last, 1, tokens)
end

-- Take back one start that did not come about.
local function void(id)
  local moment, tokens = string.match(redis.call('HGET', starts, id) or '', '^(%S+) (%S+)')
  if not moment then return end
  redis.call('HDEL', starts, id)
  tell(tonumber(moment), -1, -tonumber(tokens))
end

-- What holds now: what is configured (0: nothing is) or learned, whichever is less; 0: no limit.
local function least(configured, learned)
  if configured == 0 or learned == 0 then return math.max(configured, learned) end
  return math.min(configured, learned)
end

-- Requests and tokens a minute: as they hold, and as the vendor has them; ARGV[2…5] are what is configured.
local function limits()
  local told = now - state.told_at < TOLD_MS
  local rpm, tpm = told and state.rpm or 0, told and state.tpm or 0
  if ARGV[5] == '1' and rpm == 0 and tpm == 0 then rpm = state.found > 0 and state.found or FIRST_RPM end
  return least(tonumber(ARGV[2]), rpm), least(tonumber(ARGV[3]), tpm), rpm, tpm
end

-- After starts were taken from the end of the line: a mark that had gone ahead for them begins again.
local function restart_marks()
  state.due_at = math.min(state.due_at, redis.call('LLEN', log))
  state.old_at, state.old_past, state.old_n, state.old_tokens = 0, 0, state.all_n, state.all_tokens
end

-- Take back every start that is still to come: whoever waits for one asks again when it is due, and gets another, as far
-- behind the last that came about as ever.
local function void_all(rpm, tpm)
  while true do
    local moment, id, tokens = entry(redis.call('LINDEX', log, -1))
    if not moment or moment <= now then break end
    if tokens then void(id) end
    redis.call('RPOP', log)
  end
  restart_marks()
  local moment, _, tokens = entry(redis.call('LINDEX', log, -1))
  local function behind(of_it, limit) return moment and limit > 0 and moment + WINDOW_MS * of_it / limit or 0 end
  state.requests_at, state.tokens_at = math.max(now, behind(1, rpm)), math.max(now, behind(tokens or 0, tpm))
  state.last, state.left_n, state.left_tokens = now, 0, 0
end

-- Drop the void starts at the end of the line, so that others may come in their place.
local function shorten()
  local shorter = false
  while true do
    local moment, _, tokens = entry(redis.call('LINDEX', log, -1))
    if not moment or moment <= now or tokens then break end
    redis.call('RPOP', log)
    shorter = true
  end
  if not shorter then return end
  state.last = entry(redis.call('LINDEX', log, -1)) or 0
  restart_marks()
end
