-- Appends events to streams, all appends together or none, with changes of unique values and a note of what they handle.
-- KEYS  as for groups.lua; the deliveries, or the commands and their times, if there is a note; the stream of each append;
--       for each change two hashes: the streams by value, the values by stream
-- ARGV  as for groups.lua; `delivery` and its member, or `command`, its field and text, or `none`; the number of appends;
--       each append; for each change: the aggregate's id, `take` and the value, or `give_back`
-- Reply: as for groups.lua; or `handled` if the note is there already; or `taken` and the number of the change whose value
--       another stream holds

-- Returns true if the note is there, and the function that writes it; or the user's missing right.
local function take_note()
  local kind = take()
  if kind == 'delivery' then
    local deliveries, member = take_key(), take()
    return redis.call('ZSCORE', deliveries, member), function()
      redis.call('ZADD', deliveries, whole(now_in_ms()), member)
    end, missing_right(deliveries, 'ZADD')
  elseif kind == 'command' then
    local commands, times, field, text = take_key(), take_key(), take(), take()
    -- fails here if a foreign client gave the key a different type
    redis.call('ZSCORE', times, field)
    return redis.call('HEXISTS', commands, field) == 1, function()
      redis.call('HSET', commands, field, text)
      redis.call('ZADD', times, whole(now_in_ms()), field)
    end, missing_right(commands, 'HSET', 'ZADD')
  end
end

-- Takes the changes of unique values; returns the function that makes them, the number of the first that another stream
-- keeps from being made, and the user's missing right.
local function take_changes()
  local changes, free, taken = {}, {}, {}
  local function place(change, value) return #change.holders .. ':' .. change.holders .. value end
  while at < #ARGV do
    local change = { holders = take_key(), values = take_key(), id = take() }
    if take() == 'take' then change.value = take() end
    change.former = redis.call('HGET', change.values, change.id)
    if change.former then free[place(change, change.former)] = change.id end
    changes[#changes + 1] = change
  end
  local refused, conflict
  for number, change in ipairs(changes) do
    if change.value and not conflict then
      local of_value = place(change, change.value)
      local holder = redis.call('HGET', change.holders, change.value)
      local is_held = holder and holder ~= change.id and free[of_value] ~= holder
      if is_held or taken[of_value] then conflict = number end
      taken[of_value] = true
    end
    refused = refused or missing_right(change.holders, 'HSET', 'HDEL')
  end
  local function make()
    for _, change in ipairs(changes) do
      if change.former then
        redis.call('HDEL', change.values, change.id)
        if redis.call('HGET', change.holders, change.former) == change.id then
          redis.call('HDEL', change.holders, change.former)
        end
      end
    end
    for _, change in ipairs(changes) do
      if change.value then
        redis.call('HSET', change.holders, change.value, change.id)
        redis.call('HSET', change.values, change.id, change.value)
      end
    end
  end
  return make, conflict, refused
end

local is_noted, write_note, refused_note = take_note()
if is_noted then return { 'handled' } end
local appends = {}
for i = 1, tonumber(take()) do appends[i] = take_append() end
local refusal = refusal_of(appends)
if refusal then return refusal end
local make_changes, conflict, refused_change = take_changes()
if conflict then return { 'taken', conflict } end
local refused = refused_note or refused_change
if refused then return { 'failed', refused } end
local reply = add_all(appends)
if reply[1] == 'new' then
  make_changes()
  if write_note then write_note() end
end
return reply
