-- Keep a record of some kind, its tenant's own, and its place among them in the order of their ids, wholly or not at all.
-- KEYS[1] namespace   ARGV[1] kind   ARGV[2] tenant   ARGV[3] id   ARGV[4] when it ends, in seconds since 1970 ('': never)
-- ARGV[5…] fields and values
-- Keys: KIND:TENANT:ID the record (hash) · KIND:TENANT its tenant's ids (zset, all of score 0)
--       KIND those that end, as TENANT/ID (zset by when)
-- Reply: 1 kept, 0 there is one of that id.
local record = key(ARGV[1], ARGV[2], ARGV[3])
if redis.call('EXISTS', record) == 1 then return 0 end
redis.call('HSET', record, unpack(ARGV, 5))
redis.call('ZADD', key(ARGV[1], ARGV[2]), 0, ARGV[3])
if ARGV[4] ~= '' then redis.call('ZADD', key(ARGV[1]), ARGV[4], ARGV[2] .. '/' .. ARGV[3]) end
return 1
