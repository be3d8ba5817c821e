-- Tells how far each known group has finished what a store's relay published.
--
-- A hole is where others removed entries from the beginning of the stream that a group had not finished; deleting entries
-- further behind makes none. It is looked for only when the oldest entry is not the one that we left as such, and only in
-- groups that had not finished what came before the one that is the oldest now. Such a group has no hole if nothing that
-- it has pending is gone, and the server counts no more entries that it has yet to read than there are, other than it did
-- before. What was found is noted for all stores until it is mended, and which relay was told: that one will mend it.
--
-- KEYS  stream, relay, floors
-- ARGV  store, epoch, groups that it knows ...
-- Replies {'lost'}, or {'groups', group, 'at' 'unknown' 'missing' or 'hole', position or '', ...}.

-- How many entries are read to find one of the store, and to count what a group has yet to read.
local MOST_READ, MOST_COUNTED = 500, 100

local stream, relay, floors, store, epoch = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local notes, listed = by_name(redis.call('HGETALL', relay)), by_name(redis.call('HGETALL', floors))
local record = read_record(notes[store])
if not record or not is_there(stream, record.witness) then return { 'lost' } end
local asked, notes_of_backlogs = {}, by_name(redis.call('HGETALL', fills_key(floors)))
local is_relay = not is_smaller(epoch, record.epoch)
for i = 3, #ARGV do asked[ARGV[i]] = true end
local groups, first = groups_of(stream), first_of(stream)

local newest = newest_of(stream)

-- How many entries a group has yet to read, or nothing if they are many, or if they were to be counted one by one.
local function unread_of(info, is_quick)
  local last = info['last-delivered-id']
  if not first or not is_before(last, newest) then return 0 end
  if is_before(last, first) then return redis.call('XLEN', stream) end
  if is_quick then return nil end
  local entries = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', MOST_COUNTED + 1)
  if #entries <= MOST_COUNTED then return #entries end
  return nil
end

-- The position below that of the first entry of the store from an id on, or nothing if it is far away.
local function position_before(id)
  if record.witness == '-' or is_before(record.witness, id) then return record.position end
  local from, count, read = id, 1, 0
  while read < MOST_READ do
    local entries = redis.call('XRANGE', stream, from, record.witness, 'COUNT', count)
    for _, entry in ipairs(entries) do
      local fields = by_name(entry[2])
      local position = fields.store == store and is_number(fields.position)
      if position then return position == '0' and position or minus_one(position) end
    end
    if #entries < count then return record.position end
    from, read = '(' .. entries[count][1], read + count
    count = math.min(count * 4, MOST_READ - read)
  end
  return nil
end

local function finished_before(id)
  local position = position_before(id)
  local is_rewound = record.rewound_at ~= '-' and not is_before(record.rewound_at, id)
  if position and is_rewound and is_smaller(record.rewound_to, position) then return record.rewound_to end
  return position
end

-- How many entries the server counts too many; nothing if it does not count, as of groups that have just been made.
local function drift_of(info, is_quick)
  local unread = unread_of(info, is_quick)
  if not unread or not info['entries-read'] or not info.lag then return nil, unread end
  return string.format('%.0f', info.lag - unread), unread
end

-- Whether entries are gone that a group had not finished when it was noted; nothing if that cannot be told now.
local function has_hole(info, drift, unread)
  local id, noted = noted_floor(notes, info.name), string.match(notes['floor:' .. info.name], ' (%S+)$')
  local gone = first and before(first) or '+'
  if #redis.call('XPENDING', stream, info.name, id, gone, 1) > 0 then return true end
  if not unread then return nil end
  return drift == nil or drift ~= noted
end

local is_sure = true
local new, gone, holes, absent, ids, done = {}, {}, {}, {}, {}, {}
local reply = { 'groups' }
local function tell(group, what, position)
  for _, value in ipairs({ group, what, position or '' }) do reply[#reply + 1] = value end
end
for group, info in pairs(groups) do
  if asked[group] or is_known(info, listed[group], floors) then
    local note, mark = 'floor:' .. group, 'hole:' .. store .. ':' .. group
    local floor = floor_of(stream, info, first)
    local hole, is_cut = false, may_miss(notes, group, first)
    local noted = string.match(notes[note] or '', ' (%-?%d+)$')
    local drift, unread = drift_of(info, noted and not is_cut)
    if is_cut then hole = has_hole(info, drift, unread) end
    if hole == nil then
      is_sure = false
    else
      if not hole then drift = drift or noted end
      local text = floor .. ' ' .. (drift or '-')
      if notes[note] ~= text then new[note] = text end
    end
    if hole then holes[group] = true end
    if hole or notes[mark] then
      tell(group, 'hole')
      if is_relay then new[mark] = epoch end
    elseif hole == nil or notes_of_backlogs['open ' .. group] then
      tell(group, 'unknown')
    else
      if done[floor] == nil then done[floor] = finished_before(floor) or false end
      tell(group, done[floor] and 'at' or 'unknown', done[floor])
      if (asked[group] or listed[group]) and listed[group] ~= floor then ids[group] = floor end
    end
  end
end
-- listed groups, which somebody else may ask for, too: the head is noted for all
for group in pairs(listed) do if asked[group] == nil then asked[group] = false end end
for group, is_asked in pairs(asked) do
  if not groups[group] then
    if is_asked then tell(group, 'missing') end
    -- it is told when the group is back
    if may_miss(notes, group, first) then absent[#absent + 1] = group end
  end
end
for name in pairs(notes) do
  local group = string.match(name, '^floor:(.*)$') or string.match(name, '^hole:[^:]*:(.*)$')
  if group and not groups[group] and asked[group] == nil then gone[#gone + 1] = name end
end
if is_sure and notes.head ~= (first or '') then new.head = first or '' end

-- a hole must not be forgotten; all else may be noted later, if the server has no memory now
for group in pairs(holes) do
  note_hole(redis.call, relay, notes, group)
  if is_relay then redis.call('HSET', relay, 'hole:' .. store .. ':' .. group, epoch) end
end
for _, group in ipairs(absent) do
  note_hole(redis.call, relay, notes, group)
  if first then redis.call('HSET', relay, 'floor:' .. group, first .. ' -') end
end
for name, value in pairs(new) do redis.pcall('HSET', relay, name, value) end
for group, id in pairs(ids) do redis.pcall('HSET', floors, group, id) end
for _, name in ipairs(gone) do redis.call('HDEL', relay, name) end
return reply
