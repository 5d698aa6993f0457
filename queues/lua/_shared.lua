-- Prelude of the scripts that look whether something fits into shared quotas (hold, permit, relieve, accept).
-- Caps are the configuration's: each process says its own with what it asks for, as 'WHOM:PER:CAP …', and what was said counts
-- for so long. While processes of two configurations work side by side the smaller cap holds for both, and a process whose
-- configuration has none is bound by the others'.
local CAPS_MS = 30000
local said, caps, stood = {}, {}, {}
local function say_caps(words)
  if said[words] then return end
  said[words] = true
  for whom, what in string.gmatch(words, '(%S-):(%S+)') do
    redis.call('HSET', key('caps', whom), what, int(now + CAPS_MS))
    redis.call('PEXPIRE', key('caps', whom), CAPS_MS)
    caps[whom] = nil
  end
end
-- What a tenant, or all, may use at most, by 'day' and 'month'; read once in a script.
local function caps_of(whom)
  if caps[whom] then return caps[whom] end
  local found, flat = {}, redis.call('HGETALL', key('caps', whom))
  for i = 1, #flat, 2 do
    local per, most = string.match(flat[i], '^(%a+):(%d+)$')
    if tonumber(flat[i + 1]) <= now then
      redis.call('HDEL', key('caps', whom), flat[i])
    else
      found[per] = math.min(found[per] or math.huge, tonumber(most))
    end
  end
  caps[whom] = found
  return found
end
-- What is used and held in a period; read once, and kept up by whoever changes it in this script.
local function standing(per, whom, number)
  local name = table.concat({per, whom, number}, ' ')
  if not stood[name] then
    stood[name] = {}
    for _, what in ipairs({'used', 'held'}) do
      local of_it = table.concat({PERIODS[per].base, what, whom}, ':')
      stood[name][what] = tonumber(redis.call('HGET', of_it, int(number)) or 0)
    end
  end
  return stood[name]
end
local function each_shared(its, one)
  for _, whom in ipairs({its.tenant, EVERYBODY}) do
    for _, per in ipairs({'day', 'month'}) do one(per, whom, its[per]) end
  end
end
-- What this script holds or frees reaches the store at its end.
local function held_more(its, by)
  each_shared(its, function(per, whom, number)
    local stands = standing(per, whom, number)
    stands.held = stands.held + by
  end)
end
-- Whether anything caps what is used by a tenant, or by all.
local function is_capped(tenant) return (next(caps_of(tenant)) or next(caps_of(EVERYBODY))) ~= nil end
-- Where an amount does not fit: {0, cap, used, held by others, whose ('': the job's own), 'day' or 'month', number of that}; of
-- several the one that nobody else holds anything of, for that one no wait helps.
local function shorter(short, cap, used, others, amount, whom, per, number)
  if not cap or used + others + amount <= cap or (short and (short[4] == 0 or others > 0)) then return short end
  return {0, cap, used, others, whom, per, number}
end
-- `used_up`: by what was used alone, whatever is held.
local function short_of_shared(short, its, amount, used_up)
  each_shared(its, function(per, whom, number)
    local stands, cap = standing(per, whom, number), caps_of(whom)[per]
    short = shorter(short, cap, stands.used, used_up and 0 or stands.held, amount, whom, per, number)
  end)
  return short
end
