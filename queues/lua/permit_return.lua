-- Give a permit back, with what was really used and what the vendor says of its limits.
-- KEYS[1] namespace
-- ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] 1: the limits are to be found out
-- ARGV for each: permit id, its tokens at most, tokens used, the same with all the output that it was allowed,
--   'ended', 'refused' (the vendor limits the rate), 'broken' (of the vendor's fault), 'cut' (by ourselves: it says nothing of the
--   vendor) or 'unused' (no call was made),
--   requests/min, requests left, tokens/min, tokens left, as the vendor told them ('': it did not),
--   what the call was for ('': it is not remembered), how long it took in ms
-- Reply to each: 1, or 0 when the permit had expired.
-- Our minute is a little longer than the vendor's, and what starts at once leaves it at once: by so much of the limit we may
-- count more than a vendor that counts alike.
local SLACK = (WINDOW_MS - 60000 + BURST_MS) / 60000
-- By how much calls were expected to count more than they did: of the latest ten, about.
local OVER_KEEPS = 0.9
-- Of so many calls, about, it is remembered how long they took and what they counted.
local REMEMBERED = 200
local function remember(lane, took, counts)
  local known = state.took ~= 0 and state.took or {}
  local ms, tokens, n = unpack(known[lane] or {0, 0, 0})
  n = math.min(n + 1, REMEMBERED)
  known[lane] = {ms + (took - ms) / n, tokens + (counts - tokens) / n, n}
  state.took = known
end
local in_flight = redis.call('ZCARD', flying)
local rpm, tpm = limits()
local function give_back(id, tokens, used, allowed, outcome, told_rpm, told_n, told_tpm, told_tokens, lane, took)
  tokens, used = tonumber(tokens), tonumber(used)
  local told = {rpm = tonumber(told_rpm), n = tonumber(told_n), tpm = tonumber(told_tpm), tokens = tonumber(told_tokens)}
  local live = redis.call('ZREM', flying, id)
  local moment, noted, seen = string.match(redis.call('HGET', starts, id) or '', '^(%S+) (%S+) ?(%S*)$')
  moment, noted, seen = tonumber(moment), tonumber(noted) or expected(tokens), tonumber(seen)

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
  local theirs = told.tokens and told.tpm and told.tpm - told.tokens
  if told.n and told.rpm then state.others_n, state.others_n_at = math.max(0, told.rpm - told.n - ours_n), now end
  if theirs then state.others_tokens, state.others_tokens_at = math.max(0, theirs - ours_tokens), now end
  local arrived = outcome ~= 'refused' and outcome ~= 'unused'
  if ARGV[5] == '1' or told.rpm or told.tpm then rpm, tpm = limits() end
  -- Less than was reserved is free again, more counts. A vendor may count all the output that a call was allowed, not what came:
  -- what it used is what counts if the vendor tells of that much less than we have. What it tells may be of the call's beginning
  -- or of its end: of our counts then and now the smaller is held against it. Calls are of unequal size, they leave our minute
  -- later than the vendor's, and those that run are in it with more than they will turn out to count: so far apart the two may be.
  local as_allowed = allowed == '0' and noted or tonumber(allowed)
  if outcome == 'ended' then state.over = OVER_KEEPS * state.over + (1 - OVER_KEEPS) * math.max(0, noted - as_allowed) end
  local apart = 4 * math.max(noted, ours_n > 0 and ours_tokens / ours_n or 0) + tpm * SLACK
    + math.min(in_flight, ours_n) * math.max(state.over, noted - as_allowed)
  local counts = used
  if theirs then
    if told.tokens < tpm and theirs >= math.min(ours_tokens, seen or ours_tokens) - apart then counts = math.max(used, as_allowed) end
  elseif now < state.allowed_until then
    counts = math.max(used, as_allowed)
  end
  if outcome == 'ended' and tokens > 0 then
    state.worth = math.min(1, math.max(as_allowed / tokens, FORGETS * worth()))
  end
  if outcome == 'ended' and lane ~= '' and live == 1 then remember(lane, tonumber(took), counts) end
  local freed = arrived and noted - counts or noted
  if live == 1 then
    if not arrived then
      void(id)
    elseif moment and freed ~= 0 then
      redis.call('HSET', starts, id, string.format('%.3f ', moment) .. int(noted - freed) .. ' ' .. int(seen or 0))
      tell(moment, 0, -freed)
    end
    if not arrived then
      shorten()
      if rpm > 0 then state.requests_at = math.max(now - BURST_MS, state.requests_at - WINDOW_MS / rpm) end
    end
    if tpm > 0 and freed ~= 0 then state.tokens_at = math.max(now - BURST_MS, state.tokens_at - WINDOW_MS * freed / tpm) end
  end
  -- Refused although by our count there is room: a vendor that tells nothing, and counts what calls are allowed.
  if outcome == 'refused' and not theirs and tpm > 0 and (rpm == 0 or ours_n < rpm / 2) then state.allowed_until = now + TOLD_MS end
  if changed then void_all(rpm, tpm) end
  return live
end
go_on()
local replies = each(5, 11, give_back)
save()
return replies
