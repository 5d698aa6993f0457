-- No call of this account starts before the given moment, in the whole fleet; a later pause wins.
-- KEYS[1] namespace   ARGV[1] account   ARGV[2] for_ms
-- Reply: milliseconds left of the pause in force.
go_on()
state.paused_until = math.max(now + tonumber(ARGV[2]), state.paused_until)
if state.last > now then void_all(0, 0) end -- so that those that wait start evenly spaced behind it, not together at its end
save()
return math.ceil(state.paused_until - now)
