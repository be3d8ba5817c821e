
-- Steps of the store's commits. They reply `ok` and the last position, if events are appended; or further reasons why
-- the script wrote no key: `changed` and the key, `damaged`, key and entry.

-- Returns the script's reply if the user may not run the commands with which a later step writes a key.
local function refuse_without(key, ...)
  local refused, name = missing_right(key, ...)
  if refused then return { 'failed', key, name, refused } end
end

-- Checks that the user may write a key by a command.
function steps.may() return refuse_without(take_key(), take()) end

-- The planned appends, and the last position before them.
local appends, head = {}, nil

-- Checks that the lease still has this owner and epoch.
function steps.fence()
  local has, owner, epoch = redis.call('HMGET', take_key(), 'owner', 'epoch'), take(), take()
  if has[1] ~= owner or has[2] ~= epoch then return { 'lost' } end
end

-- Checks that a delivery is not noted yet, and that the user may note it.
function steps.first()
  local deliveries = take_key()
  if redis.call('ZSCORE', deliveries, take()) then return { 'lost' } end
  return refuse_without(deliveries, 'ZADD')
end

-- Checks that no command with this key is noted yet, and that the user may note it.
function steps.new_command()
  local commands = take_key()
  if redis.call('HEXISTS', commands, take()) == 1 then return { 'lost' } end
  return refuse_without(commands, 'HSET', 'ZADD')
end

-- Checks that the position of a rebuild's copies has not moved.
function steps.filled()
  if redis.call('HGET', take_key(), 'position') ~= take() then return { 'lost' } end
end

-- Checks that a read has the same reply as before.
function steps.same()
  local key, seen, name, args = take_key(), take(), take(), take_list()
  local reply = redis.pcall(name, key, unpack(args))
  if error_of(reply) or fingerprint(name, reply) ~= seen then return { 'changed', key } end
end

-- Checks that no item of a boundary can have further events: an item has a further event only if the counts of all its
-- tags differ.
function steps.boundary()
  local names, is_moved, changed = take_list(), {}, nil
  for i = 1, tonumber(take()) do
    local key, expected, sum = take_key(), tonumber(take()), 0
    local counts = redis.pcall('HMGET', key, unpack(names))
    if error_of(counts) then return { 'failed', key, 'HMGET', counts.err } end
    for _, count in ipairs(counts) do sum = sum + (tonumber(count or 0) or math.huge) end
    is_moved[i] = sum ~= expected
    if is_moved[i] then changed = changed or key end
  end
  for _ = 1, tonumber(take()) do
    local has_moved = changed
    for _, tag in ipairs(take_list()) do has_moved = has_moved and is_moved[tonumber(tag)] end
    if has_moved then return { 'changed', changed } end
  end
end

-- Takes the events of an append for the steps below, after it has checked that their stream has the same version, that
-- the store does not know their ids, and that the user may add them to the index.
function steps.events()
  local feed, ids, key, before, own = take_key(), take_key(), take_key(), tonumber(take()), tonumber(take())
  local acknowledged = take()
  local append = { key = key, version = before + own, recorded_at = take() }
  append.stream = { type = take(), id = take(), tenant = take() }
  local by_id, damage
  append.events, by_id = take_events()
  appends[#appends + 1] = append
  head, damage = head_of(feed, ids)
  if not head then return damage end
  note_lost_events(head, acknowledged)
  local version, refusal = length_of(key)
  if refusal then return { 'failed', key, 'XADD', refusal[2] } end
  if version ~= before or known_positions(ids, by_id) then return { 'changed', key } end
  return refuse_without(ids, 'HGET', 'HSET')
end

-- Adds the planned events to their streams, which the checks have found unchanged.
function steps.append()
  local position = head
  for _, append in ipairs(appends) do
    local key, version, events = append.key, append.version, append.events
    local refused = add_events(key, version, position, append.recorded_at, events)
    if refused then return undo_all(key, 'XADD', refused) end
    undo[#undo + 1] = function() remove_events(key, version, events) end
    position = position + #events
  end
end

-- Counts the planned events with a tag, and adds their positions to its sets. Before `place`, which is not undone.
function steps.tag()
  local counts, sets = take_key(), {}
  for i = 1, tonumber(take()) do sets[i] = take_key() end
  local types, numbers = take_list(), take_list()
  for i = 1, #types, 2 do
    local event_type, count = types[i], tonumber(types[i + 1])
    local refused = error_of(redis.pcall('HINCRBY', counts, event_type, count))
    if refused then return undo_all(counts, 'HINCRBY', refused) end
    undo[#undo + 1] = function()
      if redis.call('HINCRBY', counts, event_type, -count) == 0 then redis.call('HDEL', counts, event_type) end
    end
  end
  for from = 1, #numbers, 1000 do
    local members, scored = {}, {}
    for i = from, math.min(from + 999, #numbers) do
      local position = head + numbers[i]
      members[#members + 1] = position
      scored[#scored + 1] = position
      scored[#scored + 1] = position
    end
    for _, set in ipairs(sets) do
      local refused = error_of(redis.pcall('ZADD', set, unpack(scored)))
      if refused then return undo_all(set, 'ZADD', refused) end
      undo[#undo + 1] = function() redis.call('ZREM', set, unpack(members)) end
    end
  end
end

-- Adds the planned events to the feed and the index.
function steps.place()
  local feed, ids, types = take_key(), take_key(), take_key()
  for _, append in ipairs(appends) do
    -- the server can refuse only the first entry
    local refused = add_to_feed(feed, ids, types, append.stream, append.version, head, append.events)
    if refused then return undo_all(feed, 'XADD', refused) end
    head = head + #append.events
  end
  done[2] = tostring(head)
end

-- Removes a key that looks like a row, unless it is a stream: events are streams, rows are not.
function steps.clear()
  local key = take_key()
  if redis.call('TYPE', key).ok ~= 'stream' then redis.call('UNLINK', key) end
end

-- Moves the position of a rebuild's copies.
function steps.fill() redis.call('HSET', take_key(), 'position', take()) end

-- Releases a lock; one that the user may not remove expires.
function steps.release() redis.pcall('DEL', take_key()) end

-- Notes a delivery.
function steps.note() redis.call('ZADD', take_key(), whole(now_in_ms()), take()) end

-- Notes a command.
function steps.command()
  local commands, times, field = take_key(), take_key(), take()
  redis.call('HSET', commands, field, take())
  redis.call('ZADD', times, whole(now_in_ms()), field)
end

-- Notes that a stream holds a unique value, or that a value is one of a stream.
function steps.hold() redis.call('HSET', take_key(), take(), take()) end

-- Removes a note of a unique value.
function steps.give_back() redis.call('HDEL', take_key(), take()) end
