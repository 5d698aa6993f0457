-- Write something down for a job, once, together with entries.
-- KEYS[1] namespace   ARGV[1] job   ARGV[2] name   ARGV[3] body   ARGV[4] charges (JSON)
-- Reply: 1 written, 0 something stood there already (the charges are written all the same).
apply_charges(ARGV[4])
return redis.call('HSETNX', key('m', ARGV[1]), ARGV[2], ARGV[3])
