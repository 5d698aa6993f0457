-- Drop final subtasks and a record whose content was kept elsewhere; one that is not final stays.
-- KEYS[1] namespace   ARGV[1] record   ARGV[2] the quota it is counted in   ARGV[3…] ids
-- Reply: how many subtasks were dropped.
local dropped = 0
for i = 3, #ARGV do
  if redis.call('HGET', key('s', ARGV[i]), 'state') == 'final' then
    dropped = dropped + redis.call('DEL', key('s', ARGV[i]), key('d', ARGV[i]))
  end
end
redis.call('DEL', key('r', ARGV[1]))
redis.call('SADD', key('rx', ARGV[2]), ARGV[1])
return dropped
