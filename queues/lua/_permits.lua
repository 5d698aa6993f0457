-- Prelude of the scripts that deal in permits (permit*.lua): the log of an account's starts, and what may be learned of it.
-- Keys: p:ACCOUNT hash: paused_until, requests_at and tokens_at (even spacing), last (latest start), rpm and tpm (as the vendor
--         told, or as was tried out), met (it has refused before), all_n and all_tokens (of the log), others_n and others_tokens
--         (what the vendor counts beyond our starts) as of others_at,
--         for the marks 'due' and 'old' at (place in the log), past (start of the entry before it), n and tokens (from it on)
--       p:ACCOUNT:log starts in order, 'moment id' (list) · p:ACCOUNT:starts id -> 'moment tokens' (hash); an entry of the
--         log without its like there is void · p:ACCOUNT:flying permits by the end of their lease (zset)
local account = ARGV[1]
local p, log, starts, flying = key('p', account), key('p', account, 'log'), key('p', account, 'starts'), key('p', account, 'flying')
-- A minute, and what calls may be late or early by on their way.
local WINDOW_MS = 60300
-- What an account whose limits nobody knows begins with, until its vendor tells them or refuses.
local FIRST_RPM = 60

local names = {'paused_until', 'requests_at', 'tokens_at', 'last', 'rpm', 'tpm', 'met', 'all_n', 'all_tokens', 'due_at', 'due_past',
  'due_n', 'due_tokens', 'old_at', 'old_past', 'old_n', 'old_tokens', 'others_n', 'others_tokens', 'others_at'}
local state, was = {}, {}
for i, value in ipairs(redis.call('HMGET', p, unpack(names))) do
  state[names[i]] = tonumber(value or 0)
  was[names[i]] = state[names[i]]
end

local function save()
  local changed = {}
  for _, name in ipairs(names) do
    if state[name] ~= was[name] then
      changed[#changed + 1] = name
      changed[#changed + 1] = string.format('%.3f', state[name])
    end
  end
  if #changed > 0 then redis.call('HSET', p, unpack(changed)) end
end

-- Moment, id and tokens of an entry; no tokens: it is void.
local function entry(raw)
  if not raw then return end
  local moment, id = string.match(raw, '^(%S+) (.*)$')
  local found = redis.call('HGET', starts, id)
  local at, tokens = string.match(found or '', '^(%S+) (%S+)$')
  return tonumber(moment), id, at == moment and tonumber(tokens) or nil
end

-- Count `n` starts and `tokens` more, for all marks that have not gone past the moment.
local function tell(moment, n, tokens)
  state.all_n, state.all_tokens = state.all_n + n, state.all_tokens + tokens
  for _, mark in ipairs({'due', 'old'}) do
    if moment > state[mark .. '_past'] then
      state[mark .. '_n'], state[mark .. '_tokens'] = state[mark .. '_n'] + n, state[mark .. '_tokens'] + tokens
    end
  end
end

-- Move a mark past its next entry.
local function step(mark, moment, tokens)
  state[mark .. '_at'], state[mark .. '_past'] = state[mark .. '_at'] + 1, moment
  if tokens then state[mark .. '_n'], state[mark .. '_tokens'] = state[mark .. '_n'] - 1, state[mark .. '_tokens'] - tokens end
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
    for _, mark in ipairs({'due', 'old'}) do
      if state[mark .. '_at'] == 0 then step(mark, moment, tokens) end
      state[mark .. '_at'] = state[mark .. '_at'] - 1
    end
    redis.call('LPOP', log)
    if tokens then
      redis.call('HDEL', starts, id)
      state.all_n, state.all_tokens = state.all_n - 1, state.all_tokens - tokens
    end
  end
  while true do
    local moment, _, tokens = entry(redis.call('LINDEX', log, state.due_at))
    if not moment or moment > now then break end
    step('due', moment, tokens)
  end
end

-- Write a start down behind all others.
local function note(moment, id, tokens)
  local text = string.format('%.3f', moment)
  redis.call('RPUSH', log, text .. ' ' .. id)
  redis.call('HSET', starts, id, text .. ' ' .. int(tokens))
  state.last = tonumber(text)
  tell(state.last, 1, tokens)
end

-- Take back one start that did not come about.
local function void(id)
  local moment, tokens = string.match(redis.call('HGET', starts, id) or '', '^(%S+) (%S+)$')
  if not moment then return end
  redis.call('HDEL', starts, id)
  tell(tonumber(moment), -1, -tonumber(tokens))
end

-- Take back every start that is still to come: whoever waits for one asks again when it is due, and gets another.
local function void_all()
  while true do
    local moment, id, tokens = entry(redis.call('LINDEX', log, -1))
    if not moment or moment <= now then break end
    if tokens then void(id) end
    redis.call('RPOP', log)
  end
  local length = redis.call('LLEN', log)
  state.due_at = math.min(state.due_at, length)
  -- The other mark may have gone ahead for starts that are no more: it begins again.
  state.old_at, state.old_past, state.old_n, state.old_tokens = 0, 0, state.all_n, state.all_tokens
  state.last, state.requests_at, state.tokens_at = now, now, now
end

-- What holds now: what is configured (0: nothing is) or learned, whichever is less; 0: no limit.
local function least(configured, learned)
  if configured == 0 or learned == 0 then return math.max(configured, learned) end
  return math.min(configured, learned)
end
