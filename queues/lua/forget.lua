-- Drop final subtasks and a record whose content was kept elsewhere; one that is not final stays, unless its job was
-- cancelled and nobody runs it. One that is behind another gate by now, because it runs again, is not meant.
-- KEYS[1] namespace   ARGV[1] record   ARGV[2] the quota it is counted in   ARGV[3] gate   ARGV[4] entries of the record as read
-- ARGV[5…] ids
-- Reply: 1, or 0 when the record has an entry more (or is gone): it has to be read again.
local cancelled = redis.call('HGET', key('j', job_of(ARGV[3])), 'stop') == 'cancelled'
if redis.call('HLEN', key('r', ARGV[1])) ~= tonumber(ARGV[4]) then return 0 end
for i = 5, #ARGV do
  local id = ARGV[i]
  local state, gate, tier = unpack(redis.call('HMGET', key('s', id), 'state', 'gate', 'tier'))
  if gate == ARGV[3] and (state == 'final' or (state ~= 'running' and cancelled)) then
    redis.call('DEL', key('s', id), key('d', id))
    redis.call('ZREM', key('watch'), id)
    redis.call('SREM', key('out', tier), id)
    redis.call('SREM', key('sus', tier, 'out'), id)
  end
end
redis.call('DEL', key('r', ARGV[1]))
redis.call('SADD', key('rx', ARGV[2]), ARGV[1])
return 1
