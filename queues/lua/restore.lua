-- Put one unacknowledged message back into its queue, unless it was acknowledged or renewed meanwhile.
-- KEYS: 1 unacked hash, 2 unacked index, 3.. the lists it goes to
-- ARGV: 1 tag, 2 highest score at which it is still overdue ('+inf': always), 3 the message,
--       4 'RPUSH' (it is next) or 'LPUSH' (it is last)
-- Reply: 1 if it was put back, else 0
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return 0
end
if ARGV[2] ~= '+inf' and tonumber(score) > tonumber(ARGV[2]) then
    return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 3, #KEYS do
    redis.call(ARGV[4], KEYS[i], ARGV[3])
end
return 1
