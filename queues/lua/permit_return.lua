-- Give a permit back with what was really used, so that an estimate too high does not hold up the next call.
-- KEYS[1] namespace   ARGV[1] account   ARGV[2] tokens/min (0: no limit)   ARGV[3] permit id   ARGV[4] tokens unused
-- Reply: 1, or 0 when the permit had expired.
local p, flying = key('p', ARGV[1]), key('p', ARGV[1], 'flying')
local tpm, unused = tonumber(ARGV[2]), tonumber(ARGV[4])
local live = redis.call('ZREM', flying, ARGV[3])
local tokens_at = tonumber(redis.call('HGET', p, 'tokens_at') or 0)
if live == 1 and tpm > 0 and tokens_at > now then
  redis.call('HSET', p, 'tokens_at', math.max(now, tokens_at - 60000 * unused / tpm))
end
return live
