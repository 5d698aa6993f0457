-- Renew the time at which running messages were last seen alive, so that they are not delivered again.
-- KEYS: 1 unacked index
-- ARGV: delivery tags
-- Reply: how many are still recorded; one that is no longer recorded is not added
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local kept = 0
for _, tag in ipairs(ARGV) do
    if redis.call('ZSCORE', KEYS[1], tag) then
        redis.call('ZADD', KEYS[1], now, tag)
        kept = kept + 1
    end
end
return kept
