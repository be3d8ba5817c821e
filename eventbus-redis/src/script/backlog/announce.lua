-- Announces the types of a group. If it announces a type for the first time, the group gets the entries of that type
-- that it skipped, if it began to skip them a short time ago or a handler requests them; otherwise the operator
-- decides.
-- KEYS  known types, then for each stream of events: stream, relay, skipped, fills
-- ARGV  group, the time in which skipped entries are delivered without a request (ms), 'check', 'all' or 'each', then for
--       each type: its name, or '*' for all, its version, and 'oldest', 'now' or '' as the handler's choice for older
--       entries
-- Replies for each type with undecided older entries: {type, their number, since when (ms)}. With 'each' the script
-- announces the other types, with 'all' it changes nothing then, with 'check' it never does.
local known, group, within, mode = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local parts_count, now = (#KEYS - 1) / 4, now_in_ms()
local knows_all, names, versions = known_types(known)

local skipped_names = {}
for p = 0, parts_count - 1 do
  for _, name in ipairs(redis.call('HKEYS', KEYS[4 + 4 * p])) do skipped_names[name] = true end
end

local function deliver(p, name, range)
  local stream, fills = KEYS[2 + 4 * p], KEYS[5 + 4 * p]
  local first, last, _, _, from, to = string.match(range, '^(%S+) (%S+) (%d+) (%d+) (%S+) (%S+)$')
  if not first then return end
  local stores, oldest = records_of(by_name(redis.call('HGETALL', KEYS[3 + 4 * p]))), first_of(stream)
  local is_trimmed = not oldest or is_before(first, oldest)
  local comes_from_stores = is_trimmed and next(stores) and from ~= '-'
  open_backlog(fills, group, comes_from_stores and stores or {}, now)
  if comes_from_stores then
    -- the store of the two positions is unknown: each store fills in the events that it had published by then
    local at = from == '0' and from or minus_one(from)
    for store, record in pairs(stores) do
      local through = is_smaller(record.position, to) and record.position or to
      if is_smaller(at, through) then
        redis.call('HSET', fills, 'fill ' .. store .. ' ' .. group .. '\n' .. name, at .. ' ' .. through)
      end
    end
  end
  if not comes_from_stores or (oldest and not is_before(last, oldest)) then
    -- the stores fill in theirs; in a field of its own, as older releases do not know it, nor remove it
    local of_type = group .. '\n' .. name
    if comes_from_stores then
      redis.call('HSET', fills, 'foreign ' .. of_type, '1')
    else
      redis.call('HDEL', fills, 'foreign ' .. of_type)
    end
    redis.call('HSET', fills, 'copy ' .. of_type, first .. ' ' .. last)
  end
end

local taken, undecided = {}, {}

-- Decides about the skipped entries of a type. Returns false if the choice is open.
local function decide(name, choice)
  if taken[name] then return true end
  local ranges, count, since = {}, 0, now
  for p = 0, parts_count - 1 do
    local range = redis.call('HGET', KEYS[4 + 4 * p], name)
    local number, at = string.match(range or '', '^%S+ %S+ (%d+) (%d+) ')
    if number then
      ranges[p], count, since = range, count + tonumber(number), math.min(since, tonumber(at))
    end
  end
  if not next(ranges) then return true end
  if choice == '' and now - since >= within then
    undecided[#undecided + 1] = { name, count, now - since }
    return false
  end
  taken[name] = { ranges = ranges, choice = choice }
  return true
end

local fields = {}
for i = 4, #ARGV, 3 do
  local name, version, choice = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local open = false
  if name == '*' then
    if not knows_all then
      for skipped in pairs(skipped_names) do
        if not decide(skipped, choice) then open = true end
      end
    end
  elseif not knows_all and not names[name] then
    open = not decide(name, choice)
  end
  local field = name == '*' and '*' or name .. '@' .. version
  if not open and not versions[field] then
    fields[#fields + 1] = { field, string.format('%.0f', now) .. (choice == '' and '' or ' ' .. choice) }
  end
end
if mode == 'check' or (mode == 'all' and #undecided > 0) then return undecided end

for name, decided in pairs(taken) do
  for p, range in pairs(decided.ranges) do
    if decided.choice ~= 'now' then deliver(p, name, range) end
    redis.call('HDEL', KEYS[4 + 4 * p], name)
  end
end
for _, field in ipairs(fields) do redis.call('HSETNX', known, field[1], field[2]) end
return undecided
