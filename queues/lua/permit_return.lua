-- Give a permit back, with what was really used and what the vendor says of its limits.
-- KEYS[1] namespace
-- ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] 1: the limits are to be found out
-- ARGV[6] permit id   ARGV[7] its tokens   ARGV[8] tokens used
-- ARGV[9] 'ended', 'refused' (the vendor limits the rate), 'broken' (of the vendor's fault), 'cut' (by ourselves: it says nothing
--         of the vendor) or 'unused' (no call was made)
-- ARGV[10…13] requests/min, requests left, tokens/min, tokens left, as the vendor told them ('': it did not)
-- Reply: 1, or 0 when the permit had expired.
local id, tokens, outcome = ARGV[6], tonumber(ARGV[7]), ARGV[9]
local told = {rpm = tonumber(ARGV[10]), n = tonumber(ARGV[11]), tpm = tonumber(ARGV[12]), tokens = tonumber(ARGV[13])}
local live = redis.call('ZREM', flying, id)
go_on()
local moment, seen = string.match(redis.call('HGET', starts, id) or '', '^(%S+) %S+ ?(%S*)$')
moment, seen = tonumber(moment), tonumber(seen)

-- Our minute is a little longer than the vendor's, and calls are on their way: by so much of the limit we always count more.
local SLACK = 2 * (WINDOW_MS - 60000) / 60000
local changed = false
if told.rpm or told.tpm then
  local known = now - state.told_at < TOLD_MS
  for _, name in ipairs({'rpm', 'tpm'}) do
    if not known or (told[name] and told[name] ~= state[name]) then
      changed = changed or state[name] ~= (told[name] or 0)
      state[name] = told[name] or 0
    end
  end
  state.told_at = now
elseif ARGV[5] == '1' then
  -- Nobody says what the limit is: begin slowly, double every minute, and once refused, go down at once and up in small steps.
  -- Calls that were on their way when it went down say nothing about where it is now.
  local before = state.found > 0 and state.found or FIRST_RPM
  if outcome == 'refused' and (moment or now) > state.cut_at then
    state.found, state.met, state.cut_at, changed = math.max(1, before * 0.7), 1, now, true
  elseif outcome == 'ended' and 2 * (state.all_n - state.due_n) >= before then -- it is made use of
    state.found = before + (state.met == 1 and 0.05 or 1)
  end
end

local tried = state.probe_until > 0 and redis.call('HGET', p, 'probe') == id
if tried then state.probe_until = 0 end
if outcome == 'broken' and live == 1 then
  state.broken = state.broken + 1
  if state.broken == BREAKS_AT then state.broken_at = now end
  if tried or state.broken == BREAKS_AT then
    state.open_for = math.min(LONGEST_OPEN_MS, math.max(FIRST_OPEN_MS, 2 * state.open_for))
    state.open_until = now + state.open_for
  end
elseif outcome == 'ended' or outcome == 'refused' then -- it answers
  state.broken, state.open_for, state.answered = 0, 0, 1
end

local ours_n, ours_tokens = state.all_n - state.due_n, state.all_tokens - state.due_tokens
-- A vendor that tells what is left is believed: it may count what was asked for, not what was used, and others may use the account.
if told.n and told.rpm then state.others_n, state.others_n_at = math.max(0, told.rpm - told.n - ours_n), now end
if told.tokens and told.tpm then
  state.others_tokens, state.others_tokens_at = math.max(0, told.tpm - told.tokens - ours_tokens), now
end
local arrived = outcome ~= 'refused' and outcome ~= 'unused'
-- Less than was asked for is free again, unless the vendor tells that it is not; more counts. A call that was refused, or not
-- made, counts for nothing.
local freed = arrived and tokens - tonumber(ARGV[8]) or tokens
local rpm, tpm = limits()
-- What the vendor told may be of the call's beginning or of its end: of our counts then and now the smaller is held against it.
-- Calls are of unequal size and leave our minute a little later than the vendor's: so far apart the two counts may be.
local apart = 4 * math.max(tokens, ours_n > 0 and ours_tokens / ours_n or 0) + tpm * SLACK
local counted = arrived and freed > 0 and told.tokens and told.tpm and told.tokens < tpm
  and math.min(ours_tokens, seen or ours_tokens) - (told.tpm - told.tokens) <= apart
if live == 1 and not counted then
  if not arrived then
    void(id)
  elseif moment and freed ~= 0 then
    redis.call('HSET', starts, id, string.format('%.3f ', moment) .. int(tokens - freed) .. ' ' .. int(seen or 0))
    tell(moment, 0, -freed)
  end
  if not arrived then
    shorten()
    if rpm > 0 then state.requests_at = math.max(now - BURST_MS, state.requests_at - WINDOW_MS / rpm) end
  end
  if tpm > 0 and freed > 0 then state.tokens_at = math.max(now - BURST_MS, state.tokens_at - WINDOW_MS * freed / tpm) end
end
if changed then void_all(rpm, tpm) end
save()
return live
