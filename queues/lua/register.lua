-- A worker says that it lives and how much it can run; the dispatcher is rung when it is new.
-- KEYS[1] namespace   ARGV[1] tier   ARGV[2] worker id   ARGV[3] capacity   ARGV[4] lives_ms (0: leave)
-- Reply: 1.
beat()
local workers, member = key('w', ARGV[1]), ARGV[2] .. '|' .. ARGV[3]
if ARGV[4] == '0' then
  redis.call('ZREM', workers, member)
elseif redis.call('ZADD', workers, now + tonumber(ARGV[4]), member) == 1 then
  ring()
end
return 1
