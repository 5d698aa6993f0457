-- Count parts of chords as Celery's own script does (celery.backends.redis), where they complete none. One that would complete
-- its chord Celery counts itself: it claims the body and sends it.
-- KEYS[1] prefix of Celery's keys of chords   ARGV[1] seconds for which they are kept
-- ARGV for each: chord, task id, the part as Celery writes it, its place in the chord
-- Reply to each: 1 counted, by this or before; 0 it is for Celery.
local expires = tonumber(ARGV[1])
-- Their time begins anew with so many parts; with each it would cost as much as the counting.
local RENEWED_AFTER = 16
local function part(chord, id, value, place)
  local function of_it(suffix) return ns .. chord .. suffix end
  if redis.call('GET', of_it('.c')) == 'done' then return 1 end
  local parts, seen, member = of_it('.j'), of_it('.d'), id .. ':' .. place
  local new = redis.call('SISMEMBER', seen, member) == 0
  local counted = redis.call('ZCARD', parts) + (new and 1 or 0)
  local size, more = unpack(redis.call('MGET', of_it('.s'), of_it('.t')))
  if size and counted >= tonumber(size) + tonumber(more or 0) then return 0 end
  if new then
    redis.call('ZADD', parts, place, value)
    redis.call('SADD', seen, member)
  end
  if expires > 0 and counted % RENEWED_AFTER == 1 then
    for _, suffix in ipairs({'.j', '.t', '.s', '.d'}) do redis.call('EXPIRE', of_it(suffix), expires) end
  end
  return 1
end
return each(1, 4, part)
