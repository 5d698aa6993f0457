-- Forget messages that are done.
-- KEYS: 1 unacked hash, 2 unacked index
-- ARGV: delivery tags
-- Reply: how many were still recorded
redis.call('ZREM', KEYS[2], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
