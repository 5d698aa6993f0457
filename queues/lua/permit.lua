-- Reserve the moment at which one call may start: requests, tokens and in-flight together.
-- Starts are evenly spaced, and no minute that ends with one holds more than the limit, however unequal the calls are.
-- KEYS[1] namespace
-- ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] 1: the limits are to be found out
-- ARGV for each: tokens at most, permit id, lease_ms, 1: asked before, only confirm, the longest wait that is of use in ms (for a
-- longer one nothing is reserved), and an intent as hold.lua takes it, to be journalled where the call may start at once (quota '':
-- there is none)
-- Reply to each: {wait_ms, seconds that the outage has lasted if the call tries whether it is over, else 0; 1000000 where the
--         vendor has never answered}, and where the wait is 0 and there is an intent, what came of it,
--        {-1, retry_ms} when all in-flight places are taken,
--        {-2, tokens/min} when it is more than that, {-3, retry_ms} while the vendor has an outage, {-4, wait_ms} too long a wait.
local most = tonumber(ARGV[4])
-- Who comes later than this to a start of theirs gets another: late ones would start together.
local LATE_MS = 250
-- Where no limit spaces them, those that waited for the end of a pause start so far apart.
local SPREAD_MS = 10
go_on()
redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
local in_flight = redis.call('ZCARD', flying)
local rpm, tpm, vendors_rpm, vendors_tpm = limits()
local unlimited = rpm == 0 and tpm == 0
-- What others do on the account is known for a minute.
local n_until, tokens_until = state.others_n_at + WINDOW_MS, state.others_tokens_at + WINDOW_MS
-- Whether the minute that ends at a moment has no room for so many tokens more.
local function full(at, tokens, others)
  local n, of_them = others and at < n_until and state.others_n or 0, others and at < tokens_until and state.others_tokens or 0
  return (rpm > 0 and state.old_n + 1 > rpm) or (vendors_rpm > 0 and state.old_n + n + 1 > vendors_rpm)
    or (tpm > 0 and state.old_tokens + tokens > tpm) or (vendors_tpm > 0 and state.old_tokens + of_them + tokens > vendors_tpm)
end
-- The moment of the first start that the mark 'old' has not gone past, if it is known; what is added here is not before now.
local next_old = -math.huge
local function reserve(tokens, id, lease_ms, confirm, patience_ms)
  tokens, lease_ms = tonumber(tokens), tonumber(lease_ms)
  local tries = 0
  if state.broken >= BREAKS_AT then
    local left = state.open_until - now
    if left > 0 or (state.probe_until > now and redis.call('HGET', p, 'probe') ~= id) then
      in_flight = in_flight - redis.call('ZREM', flying, id)
      void(id)
      return {-3, math.ceil(math.max(left, FIRST_OPEN_MS))}
    end
    tries = state.answered == 0 and 1000000 or math.max(1, math.floor((now - state.broken_at) / 1000))
  end
  local function try()
    if tries == 0 then return end
    redis.call('HSET', p, 'probe', id)
    state.probe_until = now + math.min(lease_ms, LONGEST_OPEN_MS) -- whoever tries may have died
  end
  local reserved = tonumber(string.match(redis.call('HGET', starts, id) or '', '^(%S+)'))
  if confirm == '1' and reserved and reserved >= now - LATE_MS and (state.paused_until <= now or reserved >= state.paused_until) then
    try()
    return {math.ceil(math.max(0, reserved - now)), tries}
  end
  if tpm > 0 and tokens > tpm then
    return {-2, math.floor(tpm)}
  end
  tokens = expected(tokens)
  if most > 0 and in_flight >= most and not redis.call('ZSCORE', flying, id) then
    redis.call('HINCRBY', p, 'refused', 1)
    return {-1, 50}
  end
  if reserved then void(id) end
  local spaced = math.max(now, state.paused_until, due('requests_at', 'left_n', rpm), due('tokens_at', 'left_tokens', tpm))
  -- Where there is no limit no start is written down: whoever waited for the end of a pause may start when it is over.
  if unlimited and state.paused_until <= now then spaced = now end
  local start = unlimited and spaced or math.max(spaced, state.last + 0.001)

  local mark = {state.old_at, state.old_past, state.old_n, state.old_tokens}
  while not (next_old > start - WINDOW_MS and start - WINDOW_MS < now) or full(start, tokens, true) do
    local moment, _, of_it = entry(redis.call('LINDEX', log, state.old_at))
    next_old = moment or math.huge
    if not moment or (moment > start - WINDOW_MS and not full(start, tokens, true)) then break end
    local forgotten = math.min(n_until > start and n_until or math.huge, tokens_until > start and tokens_until or math.huge)
    if forgotten < moment + WINDOW_MS and not full(start, tokens, false) then
      start = forgotten -- it is only the others, and what is known of them is forgotten first
    else
      start = math.max(start, moment + WINDOW_MS)
      step(MARKS.old, moment, of_it)
      next_old = -math.huge
    end
  end
  if start - now > tonumber(patience_ms) then
    state.old_at, state.old_past, state.old_n, state.old_tokens = unpack(mark)
    next_old = -math.huge
    in_flight = in_flight - redis.call('ZREM', flying, id)
    return {-4, math.ceil(start - now)}
  end
  -- Behind a pause they are evenly spaced from its end.
  local from = state.paused_until > now and spaced or 0
  if rpm > 0 then state.requests_at = math.max(state.requests_at, from) + WINDOW_MS / rpm end
  if tpm > 0 then state.tokens_at = math.max(state.tokens_at, from) + WINDOW_MS * tokens / tpm end
  if not unlimited then
    note(start, id, tokens)
  elseif start > now then
    state.requests_at = start + SPREAD_MS
  end
  in_flight = in_flight + redis.call('ZADD', flying, math.ceil(start + lease_ms), id)
  try()
  return {math.ceil(start - now), tries}
end
local function begin(tokens, id, lease_ms, confirm, patience_ms, quota, ...)
  local reply = reserve(tokens, id, lease_ms, confirm, patience_ms)
  if reply[1] == 0 and quota ~= '' then reply[3] = journal(quota, ...) end
  return reply
end
local replies = each(5, 13, begin)
save()
return replies
