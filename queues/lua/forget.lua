-- Drop final subtasks and a record whose content was kept elsewhere; one that is not final stays, unless its job was
-- cancelled and nobody runs it. One that is behind another gate by now, because it runs again, is not meant.
-- KEYS[1] namespace   ARGV[1] record   ARGV[2] the quota it is counted in   ARGV[3] gate
-- ARGV[4] entries of the record as it was read   ARGV[5] guesses among them   ARGV[6…] ids
-- Reply: 1, or 0 when the record is not what was read.
local cancelled = redis.call('HGET', key('j', job_of(ARGV[3])), 'stop') == 'cancelled'
local entries, guesses = redis.call('HLEN', key('r', ARGV[1])), redis.call('HLEN', key('rp', ARGV[1]))
if entries ~= tonumber(ARGV[4]) or guesses ~= tonumber(ARGV[5]) then return 0 end
for i = 6, #ARGV do
  local id = ARGV[i]
  local state, gate, tier = unpack(redis.call('HMGET', key('s', id), 'state', 'gate', 'tier'))
  if gate == ARGV[3] and (state == 'final' or (state ~= 'running' and cancelled)) then
    if state ~= 'final' then increase(key('c', job_of(id)), tier .. ':' .. state, -1) end
    redis.call('DEL', key('s', id), key('d', id))
    redis.call('ZREM', key('watch'), id)
    redis.call('SREM', key('out', tier), id)
    redis.call('SREM', key('sus', tier, 'out'), id)
  end
end
redis.call('DEL', key('r', ARGV[1]))
redis.call('SADD', key('rx', ARGV[2]), ARGV[1])
happened(job_of(ARGV[3]), 'filed', 'subtasks', #ARGV - 5)
return 1
