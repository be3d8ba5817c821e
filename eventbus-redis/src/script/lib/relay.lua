-- The relays' hash beside a stream: a record for each store, and notes about the stream.
--
-- A record is `epoch position sentinel rewound_at rewound_to last`, in which `-` stands for none.
--   sentinel    the last entry that was published, or a later one; while it is there, no entry was lost
--   rewound_at  the newest entry at the last rewind: the entries after it begin again at a lower position
--   rewound_to  the lowest position of these rewinds: a group whose low-water mark is not beyond `rewound_at` has
--               finished no event above it
--   last        the event at the position, perhaps in a different partition; none after a resync or a rewind
-- Notes:
--   head             the oldest entry, as long as this library alone trims
--   floor:<group>    the group's low-water mark when it last had no gap, and the server's surplus in its count of
--                    unread entries, or `-` if unknown
--   hole:<store>:<group>  the group has a gap; `found`, or the epoch of the relay that was informed
--   began:<store>    the store's events in the stream begin after this position

local NUMBER, ID = '^%d+$', '^%d+%-%d+$'

local function read_record(text)
  -- older releases wrote no last field
  local epoch, position, sentinel, at, to, last = string.match(text or '', '^(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*)$')
  local function is(value, form) return value == '-' or string.match(value, form) end
  if not epoch or not string.match(epoch, NUMBER) or not string.match(position, NUMBER) then return nil end
  if not is(sentinel, ID) or not is(at, ID) or not is(to, NUMBER) then return nil end
  if last == '' then last = '-' end
  return { epoch = epoch, position = position, sentinel = sentinel, rewound_at = at, rewound_to = to, last = last }
end

local function write_record(call, relay, store, record)
  local text = { record.epoch, record.position, record.sentinel, record.rewound_at, record.rewound_to, record.last }
  return call('HSET', relay, store, table.concat(text, ' '))
end

-- Returns the records of all stores, by store.
local function records_of(notes)
  local records = {}
  for name, text in pairs(notes) do
    if #name == 36 and not string.find(name, ':', 1, true) then records[name] = read_record(text) end
  end
  return records
end

local function is_there(stream, id)
  return id == '-' or #redis.call('XRANGE', stream, id, id) == 1
end

local function is_number(text)
  return text and string.match(text, '^0*(%d+)$')
end

local function recorded_floor(notes, group)
  return string.match(notes['floor:' .. group] or '', '^(%d+%-%d+) ')
end

-- Returns true if entries were removed since the group's last note that it may not have finished.
local function may_miss(notes, group, first)
  local floor, head = recorded_floor(notes, group), notes.head
  if not floor or not head or head == (first or '') then return false end
  return not first or is_before(floor, first)
end

-- Records a gap of a group for all stores.
local function record_gap(call, relay, notes, group)
  for store in pairs(records_of(notes)) do call('HSETNX', relay, 'hole:' .. store .. ':' .. group, 'found') end
end

-- Records a gap if some of a group's pending entries were removed from the start of the stream.
local function note_removed(stream, relay, group, ids)
  if #ids == 0 then return end
  local notes, first = by_name(redis.call('HGETALL', relay)), first_of(stream)
  local floor = recorded_floor(notes, group)
  for _, id in ipairs(ids) do
    local is_removed = not first or is_before(id, first)
    if floor and is_removed and not is_before(id, floor) then
      -- a server out of memory refuses it
      return record_gap(redis.pcall, relay, notes, group)
    end
  end
end

-- Claims pending entries for a consumer, with further options of `XCLAIM`; returns those that it claimed, as keys. If
-- entries were removed from the stream, the server drops them from the pending ones instead of claiming them: they are
-- noted.
local function claim(stream, group, consumer, ids, options, relay)
  if #ids == 0 then return {} end
  local command = { 'XCLAIM', stream, group, consumer, 0 }
  for _, arguments in ipairs({ ids, options, { 'JUSTID' } }) do
    for _, argument in ipairs(arguments) do command[#command + 1] = argument end
  end
  local claimed, removed = {}, {}
  for _, id in ipairs(redis.call(unpack(command))) do claimed[id] = true end
  for _, id in ipairs(ids) do
    if not claimed[id] then removed[#removed + 1] = id end
  end
  note_removed(stream, relay, group, removed)
  return claimed
end

