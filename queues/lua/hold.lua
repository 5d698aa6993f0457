-- Journal what is about to be used and hold its worst case: the last step before something outside is called.
-- KEYS[1] namespace   ARGV for each: quota, hold id (a subtask or a part of one), amount, intent id, note (what to do about it
-- should nobody see its end), subtask under whose claim it is done ('' for none), the fence of that claim, caps (see _shared.lua)
-- Reply to each: as of _hold.lua.
return each(0, 8, journal)
