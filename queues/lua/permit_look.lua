-- Look at an account: what holds now, and how much of it is used.
-- KEYS[1] namespace   ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] 1: the limits are to be found out
-- Reply: {requests/min, tokens/min (0: no limit), starts of the last minute, their tokens, permits that are out,
--         ms until the next call could start, ms that are left of a pause, of an outage until the next try, 1 in an outage,
--         how many of those permits are for starts that are still to come,
--         flat list of what calls were for, ms that they took and tokens that they counted, on average of the latest}.
go_on()
save()
local rpm, tpm = limits()
local outage = state.broken >= BREAKS_AT
local took = {}
for lane, seen in pairs(state.took ~= 0 and state.took or {}) do
  for _, one in ipairs({lane, math.ceil(seen[1]), math.ceil(seen[2])}) do took[#took + 1] = one end
end
local function left(moment) return math.ceil(math.max(0, moment - now)) end
return {
  math.floor(rpm), math.floor(tpm), state.all_n - state.due_n, state.all_tokens - state.due_tokens,
  redis.call('ZCOUNT', flying, now, '+inf'),
  left(math.max(state.paused_until, state.requests_at, state.tokens_at, state.last)), left(state.paused_until),
  outage and left(state.open_until) or 0, outage and 1 or 0, state.due_n, took,
}
