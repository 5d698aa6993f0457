-- Drop final subtasks and a record whose content was kept elsewhere; one that is not final stays, unless its job was
-- cancelled and nobody runs it. One that is behind another gate by now, because it runs again, is not meant.
-- KEYS[1] namespace   ARGV[1] record   ARGV[2] the quota it is counted in   ARGV[3] gate   ARGV[4…] ids
-- Reply: how many subtasks were dropped.
local cancelled = redis.call('HGET', key('j', job_of(ARGV[3])), 'stop') == 'cancelled'
local dropped = 0
for i = 4, #ARGV do
  local state, gate = unpack(redis.call('HMGET', key('s', ARGV[i]), 'state', 'gate'))
  if gate == ARGV[3] and (state == 'final' or (state ~= 'running' and cancelled)) then
    dropped = dropped + redis.call('DEL', key('s', ARGV[i]), key('d', ARGV[i]))
  end
end
redis.call('DEL', key('r', ARGV[1]))
redis.call('SADD', key('rx', ARGV[2]), ARGV[1])
return dropped
