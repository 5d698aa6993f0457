-- The messages of released subtasks are out: from here on they count as lost only if no worker takes them for longer.
-- KEYS[1] namespace   ARGV[1] resend_ms   ARGV[2…] ids
-- Reply: 1.
for i = 2, #ARGV do
  local state, tier, sends, again = unpack(redis.call('HMGET', key('s', ARGV[i]), 'state', 'tier', 'sends', 'again'))
  if again == '1' then
    redis.call('HSET', key('s', ARGV[i]), 'again', 0)
    count(tier, 'resent')
  end
  if state == 'queued' then
    redis.call('HINCRBY', key('s', ARGV[i]), 'sends', 1)
    -- Sent again without a worker taking it, because all of them are busy: wait twice as long.
    redis.call('ZADD', key('watch'), now + ARGV[1] * 2 ^ math.min(tonumber(sends), 1), ARGV[i])
  end
end
return 1
