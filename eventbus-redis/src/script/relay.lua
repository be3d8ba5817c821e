-- What relays keep beside a stream: a hash with a record for each store, and notes about the stream.
--
-- A record is `epoch position witness rewound_at rewound_to last`, in which `-` is nothing.
--   witness     the last entry that was published, or a later one; while it is there, nothing was lost
--   rewound_at  what comes after this id begins again at a lower position ...
--   rewound_to  ... than this: a group that has not come as far has not finished what is above it
--   last        the event at the position, wherever it went: of another partition, perhaps. A position that was adopted or
--               rewound has none
-- Notes:
--   head             the oldest entry, as long as only we trim
--   floor:<group>    where the group was when nothing was wrong with it, and by how much the server counted too many
--                    entries that it had yet to read, or `-` if that is not known
--   hole:<store>:<group>  entries were removed that the group had not finished; `found`, or the epoch of the relay that
--                    was told
--   began:<store>    what is published of the store begins after this position
--   trimmed_below    what was trimmed was below this id

local NUMBER, ID = '^%d+$', '^%d+%-%d+$'

local function read_record(text)
  -- a record may be older than its last field
  local epoch, position, witness, at, to, last = string.match(text or '', '^(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*)$')
  local function is(value, form) return value == '-' or string.match(value, form) end
  if not epoch or not string.match(epoch, NUMBER) or not string.match(position, NUMBER) then return nil end
  if not is(witness, ID) or not is(at, ID) or not is(to, NUMBER) then return nil end
  if last == '' then last = '-' end
  return { epoch = epoch, position = position, witness = witness, rewound_at = at, rewound_to = to, last = last }
end

local function write_record(call, relay, store, record)
  local text = { record.epoch, record.position, record.witness, record.rewound_at, record.rewound_to, record.last }
  return call('HSET', relay, store, table.concat(text, ' '))
end

-- The records of all stores, by store.
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

local function noted_floor(notes, group)
  return string.match(notes['floor:' .. group] or '', '^(%d+%-%d+) ')
end

-- Whether others removed entries, since the group was noted, that it may not have finished.
local function may_miss(notes, group, first)
  local floor, head = noted_floor(notes, group), notes.head
  if not floor or not head or head == (first or '') then return false end
  return not first or is_before(floor, first)
end

-- Notes for all stores that entries were removed which a group had not finished.
local function note_hole(call, relay, notes, group)
  for store in pairs(records_of(notes)) do call('HSETNX', relay, 'hole:' .. store .. ':' .. group, 'found') end
end

-- Notes it if some of the entries that a group had pending were removed from the beginning of the stream.
local function note_removed(stream, relay, group, ids)
  if #ids == 0 then return end
  local notes, first = by_name(redis.call('HGETALL', relay)), first_of(stream)
  local floor = noted_floor(notes, group)
  for _, id in ipairs(ids) do
    local is_removed = not first or is_before(id, first)
    if floor and is_removed and not is_before(id, floor) then
      -- a server without memory refuses it
      return note_hole(redis.pcall, relay, notes, group)
    end
  end
end

