-- No call of this account starts before the given moment, in the whole fleet; a later pause wins.
-- KEYS[1] namespace   ARGV[1] account   ARGV[2] for_ms
-- Reply: milliseconds left of the pause in force.
local p = key('p', ARGV[1])
local ends = math.max(now + tonumber(ARGV[2]), tonumber(redis.call('HGET', p, 'paused_until') or 0))
redis.call('HSET', p, 'paused_until', ends)
return ends - now
