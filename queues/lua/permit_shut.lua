-- Let no call of an account start for a while, as in an outage: it refuses the key, or its quota is used up. One tries then.
-- KEYS[1] namespace   ARGV[1] account   ARGV[2] for_ms
go_on()
if state.broken < BREAKS_AT then state.broken, state.broken_at = BREAKS_AT, now end
state.open_for, state.open_until = LONGEST_OPEN_MS, now + tonumber(ARGV[2])
save()
return 1
