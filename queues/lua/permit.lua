-- Reserve the moment at which one call may start: requests, tokens and in-flight together.
-- Starts are evenly spaced (GCRA without a burst), so a strict sliding window never sees more than its limit.
-- KEYS[1] namespace
-- ARGV[1] account  ARGV[2] requests/min  ARGV[3] tokens/min  ARGV[4] in flight (0: no limit)
-- ARGV[5] tokens   ARGV[6] permit id     ARGV[7] lease_ms    ARGV[8] 1: asked before, only confirm
-- Reply: {wait_ms}, or {-1, retry_ms} when all in-flight places are taken.
local p, flying = key('p', ARGV[1]), key('p', ARGV[1], 'flying')
local rpm, tpm, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tokens, id, lease_ms = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local paused, requests_at, tokens_at = unpack(redis.call('HMGET', p, 'paused_until', 'requests_at', 'tokens_at'))
paused = tonumber(paused or 0)
if ARGV[8] == '1' and paused <= now then return {0} end
redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
if most > 0 and not redis.call('ZSCORE', flying, id) and redis.call('ZCARD', flying) >= most then
  redis.call('HINCRBY', p, 'refused', 1)
  return {-1, 50}
end
local start = math.max(now, paused, tonumber(requests_at or 0), tonumber(tokens_at or 0))
if rpm > 0 then redis.call('HSET', p, 'requests_at', start + 60000 / rpm) end
if tpm > 0 then redis.call('HSET', p, 'tokens_at', start + 60000 * tokens / tpm) end
redis.call('ZADD', flying, start + lease_ms, id)
return {math.ceil(start - now)}
