local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

local function is_error(reply) return type(reply) == 'table' and reply.err end

-- Whether the server says of itself that it writes nothing now, as without memory or as a replica. It says so only to
-- what would be the first to write, so then nothing is written.
local function is_of_server(said)
  local code = string.match(said, '^%u+')
  return code ~= 'ERR' and code ~= 'WRONGTYPE' and code ~= 'NOPERM'
end

-- The number of entries, which is the number in the last one's id; else what is to be replied.
local function length_of(key)
  local length = redis.pcall('XLEN', key)
  if is_error(length) then return nil, { 'failed', length.err } end
  if length == 0 then return 0 end
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][1]
  if last ~= length .. '-0' then return nil, { 'damaged', key, last } end
  return length
end

-- The last position that was given, if the next one can be; else what is to be replied.
local function head_of(feed, ids)
  local length, last, known = 0, '0-0', redis.call('HLEN', ids)
  if redis.call('EXISTS', feed) == 1 then
    local info = redis.call('XINFO', 'STREAM', feed)
    for i = 1, #info, 2 do
      if info[i] == 'length' then length = info[i + 1] end
      if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
  end
  if last ~= length .. '-0' then return nil, { 'damaged', feed, last } end
  if known ~= length then return nil, { 'damaged', ids, known .. ' of ' .. length } end
  return length
end

local function take_events()
  local events, by_id, count = {}, {}, tonumber(take())
  for i = 1, count do
    local event = { id = take(), type = take(), tenant = take(), bytes = take(), fields = {} }
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

-- Adds where the events are to the feed and to the index.
local function add_places(feed, ids, aggregate_type, aggregate_id, version, head, events)
  for i, event in ipairs(events) do
    redis.call('XADD', feed, head + i .. '-0', 'type', event.type, 'aggregate', aggregate_type, 'id', aggregate_id,
      'version', version + i, 'tenant', event.tenant, 'bytes', event.bytes)
    redis.call('HSET', ids, event.id, head + i)
  end
end

