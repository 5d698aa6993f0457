-- Tell of a notice again, as if it were new but for its name; whoever is at it can record nothing any more.
-- KEYS[1] namespace   ARGV[1] a notice, or a job: its latest then
-- Reply: the notice, '' where there is none.
local notice = ARGV[1]
if redis.call('EXISTS', key('obe', notice)) == 0 then notice = redis.call('ZRANGE', key('obj', ARGV[1]), 0, 0, 'REV')[1] end
local host, job = unpack(notice and redis.call('HMGET', key('obe', notice), 'host', 'job') or {})
if not host then return '' end
redis.call('HSET', key('obe', notice), 'state', 'due', 'tries', 0)
redis.call('HINCRBY', key('obe', notice), 'fence', 1)
keep_notice(notice, job)
set_due(host, notice, now)
return notice
