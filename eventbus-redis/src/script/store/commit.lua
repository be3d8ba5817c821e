-- Commits a transaction: first all that must still hold is looked at, then all is written, or nothing.
--
-- KEYS  every key, in any order; they are named by their numbers
-- ARGV  the steps: each a word, and what it needs. Those that look come before those that write, and effects, which
--       may fail and are undone then, before what cannot.
-- Reply: `ok` and, if events are appended, the last position; or why nothing was written: `lost`, `changed` and the key,
--       `late`, `damaged`, key and entry, `failed` and the key, the command and what the server said.
local function take_key() return KEYS[tonumber(take())] end

local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

-- How effects are undone, the last one first, if one of them fails.
local undo, kept, spare = {}, {}, {}

-- Remembers what an effect changes: a part of a key, or the key, of which a copy is put aside, or which is itself put
-- aside if it is to be removed. It is put back as it was put aside, so whoever has no right to do so is refused before.
local function keep(kind, key, aside, part)
  local place = (part and kind or 'key') .. ' ' .. #key .. ' ' .. key .. (part or '')
  if kept[place] then return end
  local old
  if kind == 'field' then
    old = redis.pcall('HGET', key, part)
  elseif kind == 'member' then
    old = redis.pcall('SISMEMBER', key, part)
  elseif kind == 'score' then
    old = redis.pcall('ZSCORE', key, part)
  else
    spare[#spare + 1] = aside
    if kind == 'key' then
      old = redis.pcall('COPY', key, aside)
    else
      old = redis.call('EXISTS', key)
      local moved = old == 1 and redis.pcall('RENAME', key, aside)
      if is_error(moved) then return moved.err end
    end
  end
  if is_error(old) then return old.err end
  kept[place] = true
  undo[#undo + 1] = function()
    if kind == 'field' then
      if old then redis.call('HSET', key, part, old) else redis.call('HDEL', key, part) end
    elseif kind == 'member' then
      redis.call(old == 1 and 'SADD' or 'SREM', key, part)
    elseif kind == 'score' then
      if old then redis.call('ZADD', key, old, part) else redis.call('ZREM', key, part) end
    elseif old == 0 then
      redis.call('DEL', key)
    elseif kind == 'key' then
      redis.call('COPY', aside, key, 'REPLACE')
    else
      redis.call('RENAME', aside, key)
    end
  end
end

local steps = {}

local function undo_all(key, name, refused)
  if is_of_server(refused) then return redis.error_reply(refused) end
  for i = #undo, 1, -1 do undo[i]() end
  return { 'failed', key, name, refused }
end

-- What is to be appended, and behind which position.
local appends, head = {}, nil

-- Somebody has a role.
function steps.fence()
  local has, owner, epoch = redis.call('HMGET', take_key(), 'owner', 'epoch'), take(), take()
  if has[1] ~= owner or has[2] ~= epoch then return { 'lost' } end
end

-- Nobody else has what this transaction claimed. The claim may have ended: what was done since is looked for by itself.
function steps.claim()
  local holder, token = redis.call('GET', take_key()), take()
  if holder and holder ~= token then return { 'late' } end
end

-- A delivery is not noted yet.
function steps.first()
  if redis.call('ZSCORE', take_key(), take()) then return { 'lost' } end
end

-- A checkpoint is where it was.
function steps.at()
  if (redis.call('GET', take_key()) or '0') ~= take() then return { 'lost' } end
end

-- Copies are filled as far as they were.
function steps.filled()
  if redis.call('HGET', take_key(), 'position') ~= take() then return { 'lost' } end
end

-- What was read is still there.
function steps.same()
  local key, seen, name, args = take_key(), take(), take(), take_list()
  local reply = redis.pcall(name, key, unpack(args))
  if is_error(reply) or redis.sha1hex(cmsgpack.pack(reply)) ~= seen then return { 'changed', key } end
end

-- Events can be appended: nobody has appended to their stream meanwhile, nor them.
function steps.events()
  local feed, ids, key, before, own = take_key(), take_key(), take_key(), tonumber(take()), tonumber(take())
  local told = take()
  local append = { key = key, version = before + own, type = take(), id = take() }
  local by_id, damage
  append.events, by_id = take_events()
  appends[#appends + 1] = append
  head, damage = head_of(feed, ids)
  if not head then return damage end
  compare(head, told)
  local version, refusal = version_of(key)
  if refusal then return { 'failed', key, 'XADD', refusal[2] } end
  if version ~= before or known_places(ids, by_id) then return { 'changed', key } end
end

-- An effect.
steps['do'] = function()
  local key, kind, aside, name, args = take_key(), take(), take_key(), take(), take_list()
  local part
  if kind == 'score' then part = args[#args] elseif kind == 'field' or kind == 'member' then part = args[1] end
  local refused = keep(kind, key, aside, part)
  if not refused then
    local reply = redis.pcall(name, key, unpack(args))
    refused = is_error(reply)
  end
  if refused then return undo_all(key, name, refused) end
end

-- The events that are to be appended are added, to streams that are as they were.
function steps.append()
  local position = head
  for _, append in ipairs(appends) do
    local key, version, events = append.key, append.version, append.events
    local refused = add_events(key, version, position, events)
    if refused then return undo_all(key, 'XADD', refused) end
    undo[#undo + 1] = function() remove_events(key, version, events) end
    position = position + #events
  end
end

-- They are found from now on.
function steps.place()
  local feed, ids, types = take_key(), take_key(), take_key()
  for _, append in ipairs(appends) do
    -- only the first can be refused
    local refused = add_places(feed, ids, types, append.type, append.id, append.version, head, append.events)
    if refused then return undo_all(feed, 'XADD', refused) end
    head = head + #append.events
  end
end

-- A copy takes the place of a key.
function steps.swap()
  local copy, live = take_key(), take_key()
  if redis.call('EXISTS', copy) == 1 then redis.call('RENAME', copy, live) else redis.call('UNLINK', live) end
end

-- A key that looks like a row is removed. Rows are no streams, but events are.
function steps.clear()
  local key = take_key()
  if redis.call('TYPE', key).ok ~= 'stream' then redis.call('UNLINK', key) end
end

-- A key is removed.
function steps.drop() redis.call('UNLINK', take_key()) end

-- A key is listed as written, so that it is found again; not if it is not.
function steps.list()
  local names, name = take_key(), take()
  if redis.call('SADD', names, name) == 1 then
    undo[#undo + 1] = function() redis.call('SREM', names, name) end
  end
end

-- A checkpoint moves.
function steps.set() redis.call('SET', take_key(), take()) end

-- The checkpoint of copies moves.
function steps.fill() redis.call('HSET', take_key(), 'position', take()) end

-- Others may go on.
function steps.release() redis.call('DEL', take_key()) end

-- A delivery is noted.
function steps.note() redis.call('ZADD', take_key(), whole(now_in_ms()), take()) end

local outcome
while at < #ARGV and not outcome do outcome = steps[take()]() end
for _, key in ipairs(spare) do redis.call('UNLINK', key) end
return outcome or { 'ok', tostring(head or '') }
