-- Drop final subtasks and a record whose content was kept elsewhere; one that is not final stays, unless its job was
-- cancelled and nobody runs it.
-- KEYS[1] namespace   ARGV[1] record   ARGV[2] the quota it is counted in   ARGV[3…] ids
-- Reply: how many subtasks were dropped.
local cancelled = ARGV[3] and redis.call('HGET', key('j', job_of(ARGV[3])), 'stop') == 'cancelled'
local dropped = 0
for i = 3, #ARGV do
  local state = redis.call('HGET', key('s', ARGV[i]), 'state')
  if state == 'final' or (state and state ~= 'running' and cancelled) then
    dropped = dropped + redis.call('DEL', key('s', ARGV[i]), key('d', ARGV[i]))
  end
end
redis.call('DEL', key('r', ARGV[1]))
redis.call('SADD', key('rx', ARGV[2]), ARGV[1])
return dropped
