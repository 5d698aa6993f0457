-- Add up what the open jobs of a fleet's tenants may use, have used and hold, for whoever watches it. Changes nothing, and looks at
-- a bounded number of jobs, the oldest of each tenant first.
-- KEYS[1] namespace   ARGV[1] most jobs   ARGV[2] share of a cap from which it is nearly used up
-- ARGV[3] most tenants: those given, and of the others those of the latest jobs   ARGV[4…] tenants that are known by name
-- Reply: {open, paused, paused by nobody's wish, of those at a cap, caps, what is used and what is held of those, how many caps are
--         nearly used up, then what each tenant that was given ('*': all) has used today, and in this month}. What is open beyond the most is counted as open and otherwise not
--         looked at.
local left, nearly = tonumber(ARGV[1]), tonumber(ARGV[2])
local open, paused, halted, at_cap, caps, used_of, held_of, near, used_by = 0, 0, 0, 0, 0, 0, 0, 0, {}
local function look(job)
  local created, finished = unpack(redis.call('HMGET', key('job', job), 'created_at', 'finished_at'))
  if not created or finished then return end -- an earlier version ended it
  open = open + 1
  local stop, why, short = unpack(redis.call('HMGET', key('j', job), 'stop', 'why', 'short'))
  if stop == 'paused' then
    paused = paused + 1
    if why and why ~= '' then
      halted = halted + 1
      if short then at_cap = at_cap + 1 end
    end
  end
  local cap, used, held = unpack(redis.call('HMGET', key('q', job), 'cap', 'used', 'held'))
  if not cap then return end
  cap, used, held = tonumber(cap), tonumber(used or 0), tonumber(held or 0)
  caps, used_of, held_of = caps + cap, used_of + used, held_of + held
  if used >= nearly * cap then near = near + 1 end
end
local seen = {}
local function look_at(tenant)
  if seen[tenant] then return end
  seen[tenant] = true
  local jobs = key('open', tenant)
  local ids = left > 0 and redis.call('ZRANGE', jobs, 0, left - 1) or {}
  for _, job in ipairs(ids) do look(job) end
  open, left = open + redis.call('ZCARD', jobs) - #ids, left - #ids
end
for i = 4, #ARGV do
  look_at(ARGV[i])
  for _, per in ipairs({'day', 'month'}) do
    local of_it = table.concat({PERIODS[per].base, 'used', ARGV[i]}, ':')
    used_by[#used_by + 1] = tonumber(redis.call('HGET', of_it, int(PERIODS[per].now)) or 0)
  end
end
for _, tenant in ipairs(redis.call('ZRANGE', key('tenants'), 0, math.max(0, ARGV[3] - #used_by / 2 - 1), 'REV')) do look_at(tenant) end
return {open, paused, halted, at_cap, caps, used_of, held_of, near, unpack(used_by)}
