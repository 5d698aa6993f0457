-- Reserve the moment at which one call may start: requests, tokens and in-flight together.
-- Starts are evenly spaced, and no minute that ends with one holds more than the limit, however unequal the calls are.
-- KEYS[1] namespace
-- ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] tokens   ARGV[6] permit id     ARGV[7] lease_ms    ARGV[8] 1: asked before, only confirm
-- ARGV[9] 1: the limits are to be found out
-- Reply: {wait_ms}, {-1, retry_ms} when all in-flight places are taken, {-2, tokens/min} when it is more than that.
local most, tokens, id, lease_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
go_on()
local reserved = tonumber(string.match(redis.call('HGET', starts, id) or '', '^(%S+)'))
if ARGV[8] == '1' and reserved and (state.paused_until <= now or reserved >= state.paused_until) then
  save()
  return {math.ceil(math.max(0, reserved - now))}
end
if ARGV[9] == '1' and state.rpm == 0 and state.tpm == 0 then state.rpm = FIRST_RPM end
local rpm, tpm = least(tonumber(ARGV[2]), state.rpm), least(tonumber(ARGV[3]), state.tpm)
if tpm > 0 and tokens > tpm then
  save()
  return {-2, math.floor(tpm)}
end
redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
if most > 0 and not redis.call('ZSCORE', flying, id) and redis.call('ZCARD', flying) >= most then
  redis.call('HINCRBY', p, 'refused', 1)
  save()
  return {-1, 50}
end
if reserved then void(id) end
local spaced = math.max(now, state.paused_until, state.requests_at, state.tokens_at)
local start = math.max(spaced, state.last + 0.001)
local known = now - state.others_at < WINDOW_MS
local others_n, others_tokens = known and state.others_n or 0, known and state.others_tokens or 0
-- Until the minute that ends with it has room.
while true do
  local moment, _, of_it = entry(redis.call('LINDEX', log, state.old_at))
  if not moment then break end
  local full = (rpm > 0 and state.old_n + others_n + 1 > rpm) or (tpm > 0 and state.old_tokens + others_tokens + tokens > tpm)
  if moment > start - WINDOW_MS and not full then break end
  start = math.max(start, moment + WINDOW_MS)
  step('old', moment, of_it)
end
if rpm > 0 then state.requests_at = spaced + WINDOW_MS / rpm end
if tpm > 0 then state.tokens_at = spaced + WINDOW_MS * tokens / tpm end
if rpm > 0 or tpm > 0 then note(start, id, tokens) end
redis.call('ZADD', flying, start + lease_ms, id)
save()
return {math.ceil(start - now)}
