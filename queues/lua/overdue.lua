-- Find messages whose worker has not been seen for longer than the visibility timeout.
-- KEYS: 1 unacked hash, 2 unacked index
-- ARGV: 1 visibility timeout in seconds, 2 most messages to return
-- Reply: {limit, tag, recorded message, tag, recorded message, ...}; `limit` is the score for restore.lua
local time = redis.call('TIME')
local limit = tostring(time[1] - tonumber(ARGV[1])) .. '.' .. string.format('%06d', time[2])
local found = {limit}
for _, tag in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', limit, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
    local recorded = redis.call('HGET', KEYS[1], tag)
    if recorded then
        found[#found + 1] = tag
        found[#found + 1] = recorded
    else
        redis.call('ZREM', KEYS[2], tag)
    end
end
return found
