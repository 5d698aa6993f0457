-- Give a permit back, with what was really used and what the vendor says of its limits.
-- KEYS[1] namespace
-- ARGV[1] account   ARGV[2] tokens/min as configured (0: no limit)   ARGV[3] permit id   ARGV[4] its tokens   ARGV[5] tokens used
-- ARGV[6] 'ended', 'refused' (the vendor limits the rate) or 'unused' (no call was made)
-- ARGV[7…10] requests/min, requests left, tokens/min, tokens left, as the vendor told them ('': it did not)
-- ARGV[11] 1: the limits are to be found out
-- Reply: 1, or 0 when the permit had expired.
local id, tokens, unused, outcome = ARGV[3], tonumber(ARGV[4]), math.max(0, ARGV[4] - ARGV[5]), ARGV[6]
local told = {rpm = tonumber(ARGV[7]), n = tonumber(ARGV[8]), tpm = tonumber(ARGV[9]), tokens = tonumber(ARGV[10])}
local live = redis.call('ZREM', flying, id)
go_on()

-- Our minute is a little longer than the vendor's, and calls are on their way: by so much of the limit we always count more.
local SLACK = 2 * (WINDOW_MS - 60000) / 60000
local changed = false
for _, name in ipairs({'rpm', 'tpm'}) do
  if told[name] and told[name] > 0 and told[name] ~= state[name] then
    state[name], changed = told[name], true
  end
end
if ARGV[11] == '1' and not told.rpm and state.rpm > 0 then
  -- Nobody says what the limit is: begin slowly, double every minute, and once refused, go down at once and up in small steps.
  if told.tpm then
    state.rpm, changed = 0, true -- it is one of tokens only
  elseif outcome == 'refused' then
    state.rpm, state.met, changed = math.max(1, state.rpm * 0.7), 1, true
  elseif outcome == 'ended' then
    state.rpm = state.rpm + (state.met == 1 and 0.02 or 1)
  end
end

if outcome == 'unused' or outcome == 'refused' then unused = tokens end -- a refused call counts for nothing with the vendor
local ours_n, ours_tokens = state.all_n - state.due_n, state.all_tokens - state.due_tokens
-- A vendor that tells what is left is believed: it may count what was asked for, not what was used, and others may use the account.
if told.n and told.rpm then state.others_n, state.others_at = math.max(0, told.rpm - told.n - ours_n), now end
if told.tokens and told.tpm then state.others_tokens, state.others_at = math.max(0, told.tpm - told.tokens - ours_tokens), now end
local given_back = not (told.tokens and told.tpm) or outcome ~= 'ended' or ours_tokens - (told.tpm - told.tokens) > 2 * tokens + told.tpm * SLACK
if live == 1 and unused > 0 and given_back then
  local moment = string.match(redis.call('HGET', starts, id) or '', '^(%S+)')
  if outcome ~= 'ended' then
    void(id)
  elseif moment then
    redis.call('HSET', starts, id, moment .. ' ' .. int(tokens - unused))
    tell(tonumber(moment), 0, -unused)
  end
  local tpm = least(tonumber(ARGV[2]), state.tpm)
  if tpm > 0 and state.tokens_at > now then state.tokens_at = math.max(now, state.tokens_at - WINDOW_MS * unused / tpm) end
end
if changed then void_all() end
save()
return live
