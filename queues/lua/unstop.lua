-- Let an ended job that is run again start subtasks: a pause or a cancel that came as it ended was for the job as it was.
-- KEYS[1] namespace   ARGV[1] job
-- Reply: 1.
redis.call('HDEL', key('j', ARGV[1]), 'stop')
redis.call('SREM', key('winding'), ARGV[1])
return 1
