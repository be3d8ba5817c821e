-- The events that a new group cannot read from a stream, because their entries were removed from it.

-- Number of entries that are read at once to find the first ones of the stores, and of their bytes.
local PAGE_LEN, PAGE_BYTES = 500, 4 * 1024 * 1024
-- Number of these pages, as the server runs no other command meanwhile. If the first entry of a store is not among them,
-- the group gets the events up to the published position from its backlog, and those that are in the stream twice.
local PAGES_MAX = 40

-- Returns the id after which the stream has no entries of these stores.
local function last_of(records)
  local last = '0-0'
  for _, record in pairs(records) do
    if record.sentinel == '-' then return '+' end
    if is_before(last, record.sentinel) then last = record.sentinel end
  end
  return last
end

-- Returns true if no entry was ever removed from a stream, and it is the one that the notes are about.
local function is_whole(stream, notes)
  if redis.call('EXISTS', stream) == 0 or notes.head ~= (first_of(stream) or '') then return false end
  local info = by_name(redis.call('XINFO', 'STREAM', stream))
  return info['entries-added'] == info.length
end

-- Returns for each store the position up to which its published events are no longer in the stream.
local function missing_positions(stream, notes)
  local missing, sought, knows_begin = {}, {}, is_whole(stream, notes)
  for store, record in pairs(records_of(notes)) do
    local began = knows_begin and notes['began:' .. store]
    missing[store] = began or record.position
    sought[store] = not began and record or nil
  end
  -- mostly the first entry is that of the only store
  local from, count, pages = '-', 1, 0
  while from and next(sought) and pages < PAGES_MAX do
    local entries, more = read_page('XRANGE', { stream }, from, last_of(sought), count, PAGE_BYTES)
    for _, entry in ipairs(entries) do
      local fields = by_name(entry[2])
      local position = sought[fields.store] and is_number(fields.position)
      if position then
        missing[fields.store] = position == '0' and position or minus_one(position)
        sought[fields.store] = nil
      end
    end
    from, count, pages = more == 1 and '(' .. entries[#entries][1] or nil, PAGE_LEN, pages + 1
  end
  return missing
end
