-- Ask for an ended job to be run again: add the subtask that does it, and drop a pause or a cancel that came as the job ended.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] guards: where the job has to stand (JSON; see _common.lua)
-- ARGV[3] subtask id   ARGV[4] task   ARGV[5] tier   ARGV[6] payload   ARGV[7…] all tiers
-- Reply: 1 asked, 0 it stands elsewhere, 2 it was cancelled and is still being wound up.
local job, id = ARGV[1], ARGV[3]
if not hold_all(ARGV[2]) then return 0 end
if redis.call('SISMEMBER', key('winding'), job) == 1 then return 2 end
redis.call('HDEL', key('j', job), 'stop', 'why', 'short', 'slow')
if redis.call('EXISTS', key('s', id)) == 0 then
  redis.call('HSET', key('s', id), 'task', ARGV[4], 'payload', ARGV[6], 'cost', 1, 'needs', 0,
    'fence', int(clock[1] * 1000000 + clock[2]), 'kills', 0, 'sends', 0, 'trail', '')
  make_ready(id, ARGV[5], nil, false)
elseif redis.call('HGET', key('s', id), 'state') == 'ready' and redis.call('HEXISTS', key('s', id), 'in_line') == 0 then
  -- A cancel that came as the job ended may have dropped it from its lane.
  local lane = key('b', ARGV[5], redis.call('HGET', key('j', job), 'tenant') or 'default', job)
  redis.call('LREM', lane, 0, id)
  redis.call('RPUSH', lane, id)
end
open_lanes(job, {unpack(ARGV, 7)})
return 1
