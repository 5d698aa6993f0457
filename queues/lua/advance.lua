-- Compare and set one field of a hash, and write others with it; under a guard, only while that holds.
-- KEYS[1] namespace   ARGV[1] key below it   ARGV[2] field   ARGV[3] allowed values (JSON list)   ARGV[4] new value
-- ARGV[5] guard: another key below the namespace ('' for none)   ARGV[6] its field   ARGV[7] the value that has to have
-- ARGV[8…] further fields and values
-- Reply: 1 written, 0 the field held another value or the guard did not hold.
local hash = key(ARGV[1])
local value = redis.call('HGET', hash, ARGV[2])
if ARGV[5] ~= '' and redis.call('HGET', key(ARGV[5]), ARGV[6]) ~= ARGV[7] then return 0 end
for _, allowed in ipairs(cjson.decode(ARGV[3])) do
  if value == allowed then
    redis.call('HSET', hash, ARGV[2], ARGV[4], unpack(ARGV, 8))
    return 1
  end
end
return 0
