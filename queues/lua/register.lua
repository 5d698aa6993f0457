-- A worker says that it lives and how much it can run; the dispatcher is rung when it is new.
-- KEYS[1] namespace   ARGV[1] tier   ARGV[2] worker id   ARGV[3] capacity   ARGV[4] lease_ms for which it lives (0: leave)
-- Reply: 1.
local workers, member = key('w', ARGV[1]), ARGV[2] .. '|' .. ARGV[3]
if ARGV[4] == '0' then
  redis.call('ZREM', workers, member)
else
  beat(tonumber(ARGV[4]))
  if redis.call('ZADD', workers, now + tonumber(ARGV[4]), member) == 1 then ring() end
end
return 1
