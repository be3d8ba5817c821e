-- What relays keep beside a stream: a hash with a record for each store, and notes about the stream.
--
-- A record is `epoch position witness rewound_at rewound_to`, in which `-` is nothing.
--   witness     the last entry that was published, or a later one; while it is there, nothing was lost
--   rewound_at  what comes after this id begins again at a lower position ...
--   rewound_to  ... than this: a group that has not come as far has not finished what is above it
-- Notes:
--   head             the oldest entry, as long as only we trim
--   floor:<group>    where the group was when nothing was wrong with it
--   hole:<store>:<group>  `found` or `told`: entries were removed that the group had not finished
--   trimmed_below    what was trimmed was below this id

local NUMBER, ID = '^%d+$', '^%d+%-%d+$'

local function read_record(text)
  local epoch, position, witness, at, to = string.match(text or '', '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  local function is(value, form) return value == '-' or string.match(value, form) end
  if not epoch or not string.match(epoch, NUMBER) or not string.match(position, NUMBER) then return nil end
  if not is(witness, ID) or not is(at, ID) or not is(to, NUMBER) then return nil end
  return { epoch = epoch, position = position, witness = witness, rewound_at = at, rewound_to = to }
end

local function write_record(call, relay, store, record)
  local text = { record.epoch, record.position, record.witness, record.rewound_at, record.rewound_to }
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

