-- The secrets that a tenant's notices are signed with: the current one, and the one before for a while after it was replaced.
-- KEYS[1] namespace   ARGV[1] tenant   ARGV[2] a new one, kept where there is none
-- ARGV[3] for how many ms the current one is still used beside the new one that takes its place ('': none takes it)
-- Reply: the current one, and the one before where it is still used.
local k = key('secret', ARGV[1])
local current, before, until_ms = unpack(redis.call('HMGET', k, 'current', 'before', 'until_ms'))
if current ~= ARGV[2] and (not current or ARGV[3] ~= '') then
  if current then
    before, until_ms = current, now + ARGV[3]
    redis.call('HSET', k, 'before', before, 'until_ms', until_ms)
  end
  current = ARGV[2]
  redis.call('HSET', k, 'current', current)
end
if before and tonumber(until_ms) > now then return {current, before} end
return {current}
