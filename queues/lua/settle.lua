-- Write entries and free their holds outside any change of state.
-- KEYS[1] namespace   ARGV[1] charges: JSON list of {record, id, body, quota, hold, amount, tally}
-- Reply: 1.
apply_charges(ARGV[1])
return 1
