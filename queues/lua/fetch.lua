-- Take messages from a queue and record them as unacknowledged, in kombu's own format, in one step.
-- They are recorded before they are removed: if the server is full and refuses to record, nothing is lost.
-- KEYS: 1 unacked hash, 2 unacked index, 3 list for what is no message, 4.. the queue's lists, most urgent first
-- ARGV: 1 most messages to take
-- Reply: the messages, as they were in the lists
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local wanted = tonumber(ARGV[1])
local taken = {}
for i = 4, #KEYS do
    local batch = wanted > #taken and redis.call('LRANGE', KEYS[i], #taken - wanted, -1) or {}
    for j = #batch, 1, -1 do
        local raw = batch[j]
        local valid, message = pcall(cjson.decode, raw)
        local properties = valid and type(message) == 'table' and message.properties
        local tag = type(properties) == 'table' and properties.delivery_tag
        local route = tag and properties.delivery_info
        if type(route) == 'table' then
            local exchange = cjson.encode(route.exchange or '')
            local key = cjson.encode(route.routing_key or '')
            redis.call('HSET', KEYS[1], tag, '[' .. raw .. ',' .. exchange .. ',' .. key .. ']')
            redis.call('ZADD', KEYS[2], now, tag)
            taken[#taken + 1] = raw
        else
            redis.call('LPUSH', KEYS[3], raw)
        end
    end
    if #batch > 0 then
        redis.call('LTRIM', KEYS[i], 0, -#batch - 1)
    end
end
return taken
