-- Free a hold whose intent was never carried out.
-- KEYS[1] namespace   ARGV[1] quota   ARGV[2] hold id   ARGV[3] intent id
-- Reply: 1.
free_hold(ARGV[1], ARGV[2], ARGV[3])
free_shared(ARGV[2], ARGV[3])
return 1
