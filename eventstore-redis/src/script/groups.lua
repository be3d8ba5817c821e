
-- Appends groups of appends to streams, each group whole or not at all. Begins a script: takes from
-- KEYS  the feed; the positions of events; the stored event types
-- ARGV  the highest acknowledged position; the time now in microseconds since 1970
--
-- Takes for each append from
-- KEYS  its stream
-- ARGV  the expected version (any, none, exists or a number), the aggregate's type, id and tenant ('' for none), the number
--       of events; for each of these: its key in the index, type, schema version (behind a `(` if its type is known to be
--       listed), size in bytes, the number of arguments that follow, names and values of its fields
--
-- Reply for each group: `new` and for each append the version before, the first position, the recorded time; `known` and for
--       each id its position, or '' if it is new; `conflict`, the number of the append and the version; `damaged`, key and
--       entry; `failed` and the server's error
local key_at = 0

local function take_key()
  key_at = key_at + 1
  return KEYS[key_at]
end

local feed, ids, types = take_key(), take_key(), take_key()

local function is_as_expected(expected, version)
  if expected == 'any' then return true end
  if expected == 'none' then return version == 0 end
  if expected == 'exists' then return version > 0 end
  return expected == tostring(version)
end

local head, damage = head_of(feed, ids)
note_lost_events(head, take())
local now = take()
-- the user may lack a right that an append needs behind its first entry
local refused_right = missing_right(ids, 'HGET', 'HSET')

local function take_append()
  local append = { key = take_key(), expected = take(), stream = { type = take(), id = take(), tenant = take() } }
  append.events, append.by_id = take_events()
  return append
end

-- Returns the script's reply if not all of the appends are new, as expected and allowed; else sets the version of each.
local function refusal_of(appends)
  local by_id = appends[1] and appends[1].by_id or {}
  if #appends > 1 then
    by_id = {}
    for _, append in ipairs(appends) do
      for _, id in ipairs(append.by_id) do by_id[#by_id + 1] = id end
    end
  end
  local known = known_positions(ids, by_id)
  if known then return known end
  if not head then return damage end
  for number, append in ipairs(appends) do
    local version, refusal = length_of(append.key)
    if refusal then return refusal end
    if not is_as_expected(append.expected, version) then
      local _, foreign = checked_length_of(append.key)
      return foreign or { 'conflict', number, version }
    end
    append.version = version
  end
  if refused_right then return { 'failed', refused_right } end
end

local function remove_appended(appends, count)
  for i = 1, count do
    local append = appends[i]
    if #append.events > 0 then remove_events(append.key, append.version, append.events) end
  end
end

-- Adds the events of appends that are not refused; returns the script's reply.
local function add_all(appends)
  local reply, position = { 'new' }, head
  for number, append in ipairs(appends) do
    local key, version, events = append.key, append.version, append.events
    local recorded_at = recorded_time(key, version, now)
    local refused = add_events(key, version, position, recorded_at, events)
    if refused then
      remove_appended(appends, number - 1)
      if is_of_server(refused) then return redis.error_reply(refused) end
      local _, foreign = checked_length_of(key)
      return foreign or { 'failed', refused }
    end
    reply[#reply + 1] = version
    reply[#reply + 1] = position + 1
    reply[#reply + 1] = recorded_at
    position = position + #events
  end
  for _, append in ipairs(appends) do
    -- the server can refuse only the first entry
    if add_to_feed(feed, ids, types, append.stream, append.version, head, append.events) then
      remove_appended(appends, #appends)
      return damage_of(feed, ids)
    end
    head = head + #append.events
  end
  return reply
end
