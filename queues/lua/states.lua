-- Where subtasks stand, for whoever shows them. Changes nothing.
-- KEYS[1] namespace   ARGV[1…] ids
-- Reply: for each, its status when it is final, its state until then, '' where there is none.
local reply = {}
for i, id in ipairs(ARGV) do
  local state, status = unpack(redis.call('HMGET', key('s', id), 'state', 'status'))
  reply[i] = (state == 'final' and status) or state or ''
end
return reply
