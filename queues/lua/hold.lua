-- Hold a part of a quota before using it; a hold under an id that has one replaces it.
-- KEYS[1] namespace   ARGV[1] quota   ARGV[2] hold id   ARGV[3] amount
-- Reply: {1} held, or {0, cap, used, held by others}. A quota without a cap holds everything.
local quota, holds, amount = key('q', ARGV[1]), key('qh', ARGV[1]), tonumber(ARGV[3])
local cap, used, held = unpack(redis.call('HMGET', quota, 'cap', 'used', 'held'))
local own = tonumber(redis.call('HGET', holds, ARGV[2]) or 0)
local others = tonumber(held or 0) - own
if cap and tonumber(used or 0) + others + amount > tonumber(cap) then
  return {0, tonumber(cap), tonumber(used or 0), others}
end
redis.call('HSET', holds, ARGV[2], int(amount))
redis.call('HINCRBY', quota, 'held', int(amount - own))
return {1}
