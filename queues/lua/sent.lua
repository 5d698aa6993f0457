-- The messages of released subtasks are out: from here on they count as lost only if no worker takes them for longer.
-- KEYS[1] namespace   ARGV[1] resend_ms   ARGV[2…] ids
-- Reply: 1.
local LONGER_MS = 10000
for i = 2, #ARGV do
  local state, tier, sends, again = unpack(redis.call('HMGET', key('s', ARGV[i]), 'state', 'tier', 'sends', 'again'))
  if again == '1' then
    redis.call('HSET', key('s', ARGV[i]), 'again', 0)
    count(tier, 'resent')
  end
  if state == 'queued' then
    redis.call('HSET', key('s', ARGV[i]), 'sends', sends + 1)
    -- Sent again without a worker taking it, because all of them are busy: wait longer.
    redis.call('ZADD', key('watch'), now + ARGV[1] + (tonumber(sends) > 0 and math.min(ARGV[1], LONGER_MS) or 0), ARGV[i])
  end
end
return 1
