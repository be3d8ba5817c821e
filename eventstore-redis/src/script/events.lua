
-- Returns the number of entries, or nil and the script's reply. If another client added an entry, the server refuses
-- the id of the store's next one. `checked_length_of` then finds the reason.
local function length_of(key)
  local length = redis.pcall('XLEN', key)
  if error_of(length) then return nil, { 'failed', length.err } end
  return length
end

-- Returns the number of entries if it is the number in the last one's id, or nil and the script's reply.
local function checked_length_of(key)
  local length, refusal = length_of(key)
  if refusal or length == 0 then return length, refusal end
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][1]
  if last ~= length .. '-0' then return nil, { 'damaged', key, last } end
  return length
end

-- Returns the script's reply: the reason why the feed takes no more entries.
local function damage_of(feed, ids)
  local length, last = 0, '0-0'
  if redis.call('EXISTS', feed) == 1 then
    local info = redis.call('XINFO', 'STREAM', feed)
    for i = 1, #info, 2 do
      if info[i] == 'length' then length = info[i + 1] end
      if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
  end
  if last ~= length .. '-0' then return { 'damaged', feed, last } end
  return { 'damaged', ids, redis.call('HLEN', ids) .. ' of ' .. length .. ' in ' .. feed }
end

-- Returns the last position, or nil and the script's reply.
local function head_of(feed, ids)
  local length = redis.call('XLEN', feed)
  if redis.call('HLEN', ids) == length then return length end
  return nil, damage_of(feed, ids)
end

local function take_events()
  local events, by_id, count = {}, {}, tonumber(take())
  for i = 1, count do
    local event = { id = take(), type = take(), lists = take(), bytes = take(), fields = {} }
    for f = 1, tonumber(take()) do event.fields[f] = take() end
    events[i], by_id[i] = event, event.id
  end
  return events, by_id
end

-- Returns the script's reply `known` with the position of each id or '', or `false` if the store knows none of them.
local function known_positions(ids, by_id)
  local positions, is_known = { 'known' }, false
  for from = 1, #by_id, 1000 do
    local found = redis.call('HMGET', ids, unpack(by_id, from, math.min(from + 999, #by_id)))
    for _, place in ipairs(found) do
      positions[#positions + 1] = place or ''
      is_known = is_known or place
    end
  end
  return is_known and positions
end

-- Returns the time, in microseconds since 1970, at which the stream's last event was recorded; nil if it has none.
local function last_recorded_time(key)
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  for i = 1, #last[2], 2 do
    if last[2][i] == 'recorded_at' then return last[2][i + 1] end
  end
end

-- Returns the time at which the next event of a stream is recorded: now, or, if the clock was set back, the time of the
-- event before it.
local function recorded_time(key, version, now)
  local last = version > 0 and last_recorded_time(key)
  -- another client wrote it
  if not last or not string.match(last, '^%-?%d+$') or #last > 18 then return now end
  -- as texts: numbers of Lua do not hold all microseconds of the years after 2255
  local is_later
  if #last == #now and not string.find(last .. now, '-', 1, true) then
    is_later = last > now
  else
    is_later = tonumber(last) > tonumber(now)
  end
  return is_later and last or now
end

-- Adds events after a version; returns the error if the server refuses. It can refuse only the first event: if the
-- stream ever had a later entry, or if the server refuses all writes.
local function add_events(key, version, head, recorded_at, events)
  for i, event in ipairs(events) do
    local fields = event.fields
    fields[#fields + 1] = 'recorded_at'
    fields[#fields + 1] = recorded_at
    fields[#fields + 1] = 'position'
    fields[#fields + 1] = head + i
    local added = redis.pcall('XADD', key, version + i .. '-0', unpack(fields))
    if error_of(added) then return added.err end
  end
end

-- Removes events that were just added. Servers newer than Redis 7.0 do not lower the last id: there the script creates
-- the stream again.
local function remove_events(key, version, events)
  for i = 1, #events do redis.call('XDEL', key, version + i .. '-0') end
  if version > 0 and not error_of(redis.pcall('XSETID', key, version .. '-0')) then return end
  local entries = redis.call('XRANGE', key, '-', '+')
  redis.call('DEL', key)
  for _, entry in ipairs(entries) do redis.call('XADD', key, entry[1], unpack(entry[2])) end
end

-- Set if the store has lost events, and perhaps the list of types: it ends before an acknowledged position.
local has_lost = false

-- Compares the last position with the highest that the store has acknowledged.
local function note_lost_events(head, acknowledged)
  if head and head < tonumber(acknowledged) then has_lost = true end
end

-- Lists the type of an event with its schema version and position, unless it is listed with that version or a higher
-- one.
local function list_type(types, event, position)
  local is_known, version = string.match(event.lists, '^(%(?)(%d+)$')
  if is_known == '(' and not has_lost then return end
  local listed = redis.call('HGET', types, event.type)
  local highest, first = string.match(listed or '', '^(%d+) (%d+)$')
  if highest and tonumber(highest) >= tonumber(version) then return end
  redis.call('HSET', types, event.type, version .. ' ' .. (first or position))
end

-- Adds events to the feed and to the index by id, and lists types that may be missing; returns the error if the server
-- refuses the first.
local function add_to_feed(feed, ids, types, stream, version, head, events)
  for i, event in ipairs(events) do
    local added = redis.pcall('XADD', feed, head + i .. '-0', 'type', event.type, 'aggregate_type', stream.type,
      'aggregate_id', stream.id, 'version', version + i, 'tenant_id', stream.tenant, 'bytes', event.bytes)
    if error_of(added) then return added.err end
    redis.call('HSET', ids, event.id, head + i)
    list_type(types, event, head + i)
  end
end

