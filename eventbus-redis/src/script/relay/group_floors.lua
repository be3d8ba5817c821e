-- Returns the low-water mark of each known group in what a store's relay published.
--
-- A gap is a range at the start of the stream that another client removed before a group had finished it; deleting
-- entries further on makes no gap. The script searches for one only if the oldest entry is not the recorded head, and
-- only in groups whose recorded low-water mark is below the oldest entry. Such a group has no gap if none of its
-- pending entries is gone, and the server's count of its unread entries differs from the real number as it did before.
-- The notes keep each gap for all stores until it is repaired, and the epoch of the relay that was informed: that one
-- repairs it.
--
-- A group that a bus created while it connected, and that no consumer has joined, has finished nothing, even if the stream
-- has lost its first entries: it gets what the stream lacks when a consumer joins, and is not listed in the floors before.
--
-- KEYS  stream, relay, floors
-- ARGV  store, epoch, groups that it knows ...
-- Replies {'lost'}, or {'groups', group, 'at' 'unknown' 'missing' or 'hole', position or '', ...}.

-- Number of entries read to find one of the store, and to count the unread ones of a group, and their bytes.
local MOST_READ, MOST_COUNTED, MOST_BYTES = 500, 100, 4 * 1024 * 1024

local stream, relay, floors, store, epoch = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local notes, listed = by_name(redis.call('HGETALL', relay)), by_name(redis.call('HGETALL', floors))
local record = read_record(notes[store])
if not record or not is_there(stream, record.sentinel) then return { 'lost' } end
local requested, notes_of_backlogs = {}, by_name(redis.call('HGETALL', fills_key(floors)))
local is_relay = not is_smaller(epoch, record.epoch)
for i = 3, #ARGV do requested[ARGV[i]] = true end
local groups, first = groups_of(stream), first_of(stream)

local newest = newest_of(stream)

-- Returns the number of a group's unread entries; nil if they are many, or if `is_quick` forbids counting them.
local function unread_of(info, is_quick)
  local last = info['last-delivered-id']
  if not first or not is_before(last, newest) then return 0 end
  if is_before(last, first) then return redis.call('XLEN', stream) end
  if is_quick then return nil end
  local entries, more = read_page('XRANGE', { stream }, '(' .. last, '+', MOST_COUNTED, MOST_BYTES)
  if more == 0 then return #entries end
  return nil
end

-- Returns the position below that of the store's first entry from an id on; nil if that entry is far away.
local function position_before(id)
  if record.sentinel == '-' or is_before(record.sentinel, id) then return record.position end
  local from, count, read, bytes = id, 1, 0, 0
  while read < MOST_READ and bytes < MOST_BYTES do
    local entries, more = read_page('XRANGE', { stream }, from, record.sentinel, count, MOST_BYTES - bytes)
    for _, entry in ipairs(entries) do
      bytes = bytes + bytes_of(entry)
      local fields = by_name(entry[2])
      local position = fields.store == store and is_number(fields.position)
      if position then return position == '0' and position or minus_one(position) end
    end
    if more == 0 then return record.position end
    from, read = '(' .. entries[#entries][1], read + #entries
    count = math.min(count * 4, MOST_READ - read)
  end
  return nil
end

local function finished_before(id)
  local position = position_before(id)
  local is_set_back = record.rewound_at ~= '-' and not is_before(record.rewound_at, id)
  if position and is_set_back and is_smaller(record.rewound_to, position) then return record.rewound_to end
  return position
end

-- Returns the server's surplus in its count of unread entries; nil if it does not count, as for groups just created.
local function drift_of(info, is_quick)
  local unread = unread_of(info, is_quick)
  if not unread or not info['entries-read'] or not info.lag then return nil, unread end
  return string.format('%.0f', info.lag - unread), unread
end

-- Returns true if entries are gone that a group had not finished at its last note; nil if the script cannot tell now.
local function has_gap(info, drift, unread)
  local id, noted = recorded_floor(notes, info.name), string.match(notes['floor:' .. info.name], ' (%S+)$')
  local gone = first and before(first) or '+'
  if #redis.call('XPENDING', stream, info.name, id, gone, 1) > 0 then return true end
  if not unread then return nil end
  return drift == nil or drift ~= noted
end

local is_sure = true
local new, gone, gaps, absent, ids, done = {}, {}, {}, {}, {}, {}
local reply = { 'groups' }
local function add_reply(group, what, position)
  for _, value in ipairs({ group, what, position or '' }) do reply[#reply + 1] = value end
end
for group, info in pairs(groups) do
  if not is_known(info, listed[group], floors) then
    if requested[group] then add_reply(group, 'unknown') end
  else
    local note, mark = 'floor:' .. group, 'hole:' .. store .. ':' .. group
    local floor = floor_of(stream, info, first)
    local gap, is_cut = false, may_miss(notes, group, first)
    local noted = string.match(notes[note] or '', ' (%-?%d+)$')
    local drift, unread = drift_of(info, noted and not is_cut)
    if is_cut then gap = has_gap(info, drift, unread) end
    if gap == nil then
      is_sure = false
    else
      if not gap then drift = drift or noted end
      local text = floor .. ' ' .. (drift or '-')
      if notes[note] ~= text then new[note] = text end
    end
    if gap then gaps[group] = true end
    if gap or notes[mark] then
      add_reply(group, 'hole')
      if is_relay then new[mark] = epoch end
    elseif gap == nil or notes_of_backlogs['open ' .. group] then
      add_reply(group, 'unknown')
    else
      if done[floor] == nil then done[floor] = finished_before(floor) or false end
      add_reply(group, done[floor] and 'at' or 'unknown', done[floor])
      if (requested[group] or listed[group]) and listed[group] ~= floor then ids[group] = floor end
    end
  end
end
-- listed groups too, which other relays may request: the head is recorded for all
for group in pairs(listed) do if requested[group] == nil then requested[group] = false end end
for group, is_requested in pairs(requested) do
  if not groups[group] then
    if is_requested then add_reply(group, 'missing') end
    -- reported once the group is back
    if may_miss(notes, group, first) then absent[#absent + 1] = group end
  end
end
for name in pairs(notes) do
  local group = string.match(name, '^floor:(.*)$') or string.match(name, '^hole:[^:]*:(.*)$')
  if group and not groups[group] and requested[group] == nil then gone[#gone + 1] = name end
end
if is_sure and notes.head ~= (first or '') then new.head = first or '' end

-- a gap must not be forgotten; the other notes can be written later, if the server is out of memory now
for group in pairs(gaps) do
  record_gap(redis.call, relay, notes, group)
  if is_relay then redis.call('HSET', relay, 'hole:' .. store .. ':' .. group, epoch) end
end
for _, group in ipairs(absent) do
  record_gap(redis.call, relay, notes, group)
  if first then redis.call('HSET', relay, 'floor:' .. group, first .. ' -') end
end
for name, value in pairs(new) do redis.pcall('HSET', relay, name, value) end
for group, id in pairs(ids) do redis.pcall('HSET', floors, group, id) end
for _, name in ipairs(gone) do redis.call('HDEL', relay, name) end
return reply
