-- Appends events to streams. Each append is all or nothing, independent of the rest.
--
-- KEYS  the feed; the positions of events; the stored event types; then the stream of each append
-- ARGV  the highest acknowledged position; the time now in microseconds since 1970; for each append: the expected
--       version (any, none, exists or a number), the aggregate's type, id and tenant ('' for none), the number of
--       events; for each of these: its key in the index, type, schema version (behind a `(` if its type is known to be
--       listed), size in bytes, the number of arguments that follow, names and values of its fields
-- Reply for each append: `new`, the version before, the first position, the recorded time; `known` and for each id its
--       position, or '' if it is new; `conflict` and the version; `damaged`, key and entry; `failed` and the server's
--       error.
local feed, ids, types = KEYS[1], KEYS[2], KEYS[3]

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

local function append(key)
  local expected, stream = take(), { type = take(), id = take(), tenant = take() }
  local events, by_id = take_events()
  local known = known_positions(ids, by_id)
  if known then return known end
  if not head then return damage end
  local version, refusal = length_of(key)
  if refusal then return refusal end
  if not is_as_expected(expected, version) then
    local _, foreign = checked_length_of(key)
    return foreign or { 'conflict', version }
  end
  if refused_right then return { 'failed', refused_right } end
  local recorded_at = recorded_time(key, version, now)
  local refused = add_events(key, version, head, recorded_at, events)
  if refused then
    if is_of_server(refused) then return redis.error_reply(refused) end
    local _, foreign = checked_length_of(key)
    return foreign or { 'failed', refused }
  end
  if add_to_feed(feed, ids, types, stream, version, head, events) then
    remove_events(key, version, events)
    return damage_of(feed, ids)
  end
  head = head + #events
  return { 'new', version, head - #events + 1, recorded_at }
end

local replies = {}
for i = 4, #KEYS do
  local reply = append(KEYS[i])
  if error_of(reply) then return reply end
  replies[#replies + 1] = reply
end
return replies
