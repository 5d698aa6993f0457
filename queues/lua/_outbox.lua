-- Prelude of the scripts that write into the outbox: what happened to a job and somebody outside is to be told of.
-- Keys: ob hosts that are to be told of something, by when the first of it is due (zset) · ob:HOST its notices, by when they are due
--       obe:NOTICE one of them (hash) · obj:JOB a job's, oba all, by when they happened (zsets)
local KEEP_NOTICES_MS = 7 * 24 * 3600 * 1000

-- When a notice is due; nil: not any more.
local function set_due(host, notice, at)
  if at then redis.call('ZADD', key('ob', host), at, notice) else redis.call('ZREM', key('ob', host), notice) end
  local first = redis.call('ZRANGE', key('ob', host), 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', key('ob'), first[2], host) else redis.call('ZREM', key('ob'), host) end
end

local function keep_notice(notice, job)
  redis.call('PEXPIRE', key('obe', notice), KEEP_NOTICES_MS)
  redis.call('PEXPIRE', key('obj', job), KEEP_NOTICES_MS)
end

-- `kind` happened to a job, as its event `id` says, so that there is one notice of it and its name stays. Only for a job whose document
-- names a host to be told (`hook`). What it had used, and how many of it stood where, is of this moment.
local function tell(job, kind, id)
  local host = redis.call('HGET', key('job', job), 'hook')
  if not host then return end
  local notice = 'evt_' .. string.gsub(job, '%.', '_') .. '_' .. id
  redis.call('HSET', key('obe', notice), 'job', job, 'host', host, 'kind', kind, 'at', now, 'state', 'due', 'tries', 0,
    'used', redis.call('HGET', key('q', job), 'used') or 0, 'counts', cjson.encode(redis.call('HGETALL', key('c', job))))
  redis.call('ZADD', key('oba'), now, notice)
  redis.call('ZADD', key('obj', job), now, notice)
  keep_notice(notice, job)
  set_due(host, notice, now)
end
