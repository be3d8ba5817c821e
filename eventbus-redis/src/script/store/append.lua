-- Appends events to streams: each append all or nothing, each by itself.
--
-- KEYS  the feed; where the event of an id is; then the stream of each append
-- ARGV  for each append: what it expects (any, none, exists or a version), the aggregate's type and id, the number of
--       events; for each of these: id, type, tenant, the number of arguments that follow, names and values of its fields
-- Reply for each append: `new`, the version before, the first position; `known` and the position of each id that is
--       known, or ''; `conflict` and the version; `damaged`, key and entry; `failed` and what the server said.
local feed, ids = KEYS[1], KEYS[2]
local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

-- The number of entries, which is the number in the last one's id; else what is to be replied.
local function length_of(key)
  local length = redis.pcall('XLEN', key)
  if type(length) == 'table' then return nil, { 'failed', length.err } end
  if length == 0 then return 0 end
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1][1]
  if last ~= length .. '-0' then return nil, { 'damaged', key, last } end
  return length
end

-- The last position that was given, if the next one can be.
local function head_of()
  if redis.call('EXISTS', feed) == 0 then return 0 end
  local info = redis.call('XINFO', 'STREAM', feed)
  local length, last
  for i = 1, #info, 2 do
    if info[i] == 'length' then length = info[i + 1] end
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  if last ~= length .. '-0' and last ~= '0-0' then return nil, last end
  return length
end

local function take_events()
  local events, by_id, count = {}, {}, tonumber(take())
  for i = 1, count do
    local event = { id = take(), type = take(), tenant = take(), fields = {} }
    for f = 1, tonumber(take()) do event.fields[f] = take() end
    events[i], by_id[i] = event, event.id
  end
  return events, by_id
end

-- Where the events of these ids are; nothing if none is known.
local function known_places(by_id)
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

local function is_as_expected(expected, version)
  if expected == 'any' then return true end
  if expected == 'none' then return version == 0 end
  if expected == 'exists' then return version > 0 end
  return expected == tostring(version)
end

local head, foreign = head_of()

local function append(key)
  local expected, aggregate_type, aggregate_id = take(), take(), take()
  local events, by_id = take_events()
  local known = known_places(by_id)
  if known then return known end
  if not head then return { 'damaged', feed, foreign } end
  local version, refusal = length_of(key)
  if refusal then return refusal end
  if not is_as_expected(expected, version) then return { 'conflict', version } end
  for i, event in ipairs(events) do
    local fields = event.fields
    fields[#fields + 1] = 'position'
    fields[#fields + 1] = head + i
    -- only the first can be refused, and then nothing is written: the stream has had a later entry, or there is no memory
    local added = redis.pcall('XADD', key, version + i .. '-0', unpack(fields))
    if type(added) == 'table' and added.err then return { 'failed', added.err } end
  end
  for i, event in ipairs(events) do
    redis.call('XADD', feed, head + i .. '-0', 'type', event.type, 'aggregate', aggregate_type, 'id', aggregate_id,
      'version', version + i, 'tenant', event.tenant)
    redis.call('HSET', ids, event.id, head + i)
  end
  head = head + #events
  return { 'new', version, head - #events + 1 }
end

local replies = {}
for i = 3, #KEYS do replies[#replies + 1] = append(KEYS[i]) end
return replies
