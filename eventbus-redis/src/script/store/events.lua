local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

local function is_error(reply) return type(reply) == 'table' and reply.err end

-- What the server says of itself if it writes nothing now: without memory, as a replica, with a full disk, alone.
local OF_SERVER = { OOM = true, READONLY = true, MASTERDOWN = true, MISCONF = true, NOREPLICAS = true }

-- Whether it says so. It does to what would be the first to write, so then nothing is written.
local function is_of_server(said) return OF_SERVER[string.match(said, '^%u+')] end

-- The number of entries; else what is to be replied. Whether they are the store's own, the next entry shows, as its id
-- must be beyond theirs; `length_of` says why it was refused.
local function version_of(key)
  local length = redis.pcall('XLEN', key)
  if is_error(length) then return nil, { 'failed', length.err } end
  return length
end

-- The number of entries, which is the number in the last one's id; else what is to be replied.
local function length_of(key)
  local length, refusal = version_of(key)
  if refusal or length == 0 then return length, refusal end
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][1]
  if last ~= length .. '-0' then return nil, { 'damaged', key, last } end
  return length
end

-- Why the feed takes no more entries: what is to be replied.
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

-- The last position that was given; else what is to be replied.
local function head_of(feed, ids)
  local length = redis.call('XLEN', feed)
  if redis.call('HLEN', ids) == length then return length end
  return nil, damage_of(feed, ids)
end

local function take_events()
  local events, by_id, count = {}, {}, tonumber(take())
  for i = 1, count do
    local event = { id = take(), type = take(), lists = take(), tenant = take(), bytes = take(), fields = {} }
    for f = 1, tonumber(take()) do event.fields[f] = take() end
    events[i], by_id[i] = event, event.id
  end
  return events, by_id
end

-- Where the events of these ids are; nothing if none is known.
local function known_places(ids, by_id)
  local places, is_known = { 'known' }, false
  for from = 1, #by_id, 1000 do
    local found = redis.call('HMGET', ids, unpack(by_id, from, math.min(from + 999, #by_id)))
    for _, place in ipairs(found) do
      places[#places + 1] = place or ''
      is_known = is_known or place
    end
  end
  return is_known and places
end

-- Adds events behind a version; returns what the server said if it refuses. It can refuse the first only: the stream has
-- had a later entry, or the server takes nothing.
local function add_events(key, version, head, events)
  for i, event in ipairs(events) do
    local fields = event.fields
    fields[#fields + 1] = 'position'
    fields[#fields + 1] = head + i
    local added = redis.pcall('XADD', key, version + i .. '-0', unpack(fields))
    if is_error(added) then return added.err end
  end
end

-- As if they had not been added. Newer servers than Redis 7.0 take no last id back: there the stream is made anew.
local function remove_events(key, version, events)
  for i = 1, #events do redis.call('XDEL', key, version + i .. '-0') end
  if version > 0 and not is_error(redis.pcall('XSETID', key, version .. '-0')) then return end
  local entries = redis.call('XRANGE', key, '-', '+')
  redis.call('DEL', key)
  for _, entry in ipairs(entries) do redis.call('XADD', key, entry[1], unpack(entry[2])) end
end

-- Whether the store has lost events, and perhaps the list of types: it ends before where it is known to have ended.
local has_lost = false

local function compare(head, told)
  if head and head < tonumber(told) then has_lost = true end
end

-- Notes that an event of this type and schema version is at a position, unless that is known.
local function list_type(types, event, position)
  local is_known, version = string.match(event.lists, '^(%(?)(%d+)$')
  if is_known == '(' and not has_lost then return end
  local listed = redis.call('HGET', types, event.type)
  local highest, first = string.match(listed or '', '^(%d+) (%d+)$')
  if highest and tonumber(highest) >= tonumber(version) then return end
  redis.call('HSET', types, event.type, version .. ' ' .. (first or position))
end

-- Adds where the events are to the feed and to the index, and lists their types where these may be missing; returns what the
-- server said if it refuses the first.
local function add_places(feed, ids, types, aggregate_type, aggregate_id, version, head, events)
  for i, event in ipairs(events) do
    local added = redis.pcall('XADD', feed, head + i .. '-0', 'type', event.type, 'aggregate', aggregate_type,
      'id', aggregate_id, 'version', version + i, 'tenant', event.tenant, 'bytes', event.bytes)
    if is_error(added) then return added.err end
    redis.call('HSET', ids, event.id, head + i)
    list_type(types, event, head + i)
  end
end

