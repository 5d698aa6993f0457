-- Let a claimed subtask wait for a lot: one subtask that does something for many at once. The lot that gathers is one that nobody
-- has claimed yet; it is due when it is full, or has gathered for long enough. What the claimed one is about to use is journalled,
-- and its amount held, in the same moment.
-- KEYS[1] namespace   ARGV[1] id   ARGV[2] fence   ARGV[3] trail   ARGV[4] job   ARGV[5] family of the lots   ARGV[6] task of a lot
-- ARGV[7] its tier   ARGV[8] its payload   ARGV[9] most members   ARGV[10] most size   ARGV[11] for how many ms it gathers
-- ARGV[12] size of this one   ARGV[13…20] the intent, as hold.lua has it
-- Reply: as of _hold.lua; behind {1} the lot.
local id, job, family, tier = ARGV[1], ARGV[4], ARGV[5], ARGV[7]
local LOTS_KEPT_MS = 35 * 86400000
local s = key('s', id)
local state, at, fence, joined = unpack(redis.call('HMGET', s, 'state', 'tier', 'fence', 'lot'))
if state == 'waiting' and fence == ARGV[2] then return {1, joined} end -- the reply was lost and this is the same call again
if state ~= 'running' or fence ~= ARGV[2] then return {4} end
local held = journal(unpack(ARGV, 13, 20))
if held[1] ~= 1 then return held end

local lots, size = key('lots', job), tonumber(ARGV[12])
local number = redis.call('HGET', lots, family)
local lot = number and family .. '.' .. number
local function fits()
  if not lot then return false end
  local its_state, claims, its_size = unpack(redis.call('HMGET', key('s', lot), 'state', 'claims', 'size'))
  return its_state == 'queued' and not claims and its_size + size <= tonumber(ARGV[10])
    and redis.call('SCARD', key('d', lot)) < tonumber(ARGV[9])
end
-- A lot that gathers no more is due at once.
local function due()
  if redis.call('HDEL', key('s', lot), 'snoozed') == 0 then return end
  redis.call('ZREM', key('watch'), lot)
  make_ready(lot, tier, {tier = tier, state = 'queued'}, false)
end
if not fits() then
  if lot then due() end
  lot = family .. '.' .. int(redis.call('HINCRBY', lots, family, 1))
  redis.call('PEXPIRE', lots, LOTS_KEPT_MS)
  redis.call('HSET', key('s', lot), 'task', ARGV[6], 'payload', ARGV[8], 'cost', 1, 'needs', 0, 'kills', 0, 'sends', 0,
    'fence', int(clock[1] * 1000000 + clock[2]), 'trail', '', 'size', 0, 'snoozed', 1, 'ready_at', now)
  redis.call('PEXPIRE', key('s', lot), LOTS_KEPT_MS)
  move(lot, tier, nil, 'queued')
  redis.call('ZADD', key('watch'), now + ARGV[11], lot)
end
redis.call('SADD', key('d', lot), id)
local its_size = redis.call('HINCRBY', key('s', lot), 'size', int(size))

redis.call('HSET', s, 'trail', ARGV[3], 'needs', 1, 'lot', lot)
move(id, at, {tier = at, state = state}, 'waiting')
redis.call('SREM', key('out', at), id)
redis.call('ZREM', key('watch'), id)
if redis.call('SCARD', key('d', lot)) >= tonumber(ARGV[9]) or its_size >= tonumber(ARGV[10]) then due() end
if redis.call('ZCARD', key('b', at)) > 0 then ring() end
return {1, lot}
