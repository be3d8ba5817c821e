-- Runs a program: makes all checks, then all writes, or none.
--
-- KEYS  every key, in any order; the steps name them by number
-- ARGV  the steps: each a word and its arguments. Steps that check come before steps that write; effects, which may
--       fail and are then undone, come before writes that cannot fail.
-- Reply: `ok` and what steps have added; or the reason why the script wrote no key: `lost`, `late`, `failed` and the
--       key, the command and the server's error; or the reply of a step of the script's own.
local function take_key() return KEYS[tonumber(take())] end

local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

-- If an effect fails, the script undoes the effects before it, the last one first.
local undo, kept, spare = {}, {}, {}

-- Saves what an effect changes: a part of a key, or a copy of the key, or the renamed key if the effect removes it. The
-- undo runs the command that saved the key, so a user without the right to it fails before.
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

-- The reply if all steps are made.
local done = { 'ok' }

local function undo_all(key, name, refused)
  if is_of_server(refused) then return redis.error_reply(refused) end
  for i = #undo, 1, -1 do undo[i]() end
  return { 'failed', key, name, refused }
end

-- Checks that a checkpoint has not moved.
function steps.at()
  if (redis.call('GET', take_key()) or '0') ~= take() then return { 'lost' } end
end

-- Checks that no different token holds a lock. It may have expired: further steps find commits since.
function steps.claim()
  local holder, token = redis.call('GET', take_key()), take()
  if holder and holder ~= token then return { 'late' } end
end

-- Lists a key as written, so that a rebuild finds it; undone if an effect fails.
function steps.list()
  local names, name = take_key(), take()
  if redis.call('SADD', names, name) == 1 then
    undo[#undo + 1] = function() redis.call('SREM', names, name) end
  end
end

-- Makes an effect; undoes all effects if it fails.
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

-- Renames a copy over a key, or removes the key.
function steps.swap()
  local copy, live = take_key(), take_key()
  if redis.call('EXISTS', copy) == 1 then redis.call('RENAME', copy, live) else redis.call('UNLINK', live) end
end

-- Removes a key.
function steps.drop() redis.call('UNLINK', take_key()) end

-- Moves a checkpoint.
function steps.set() redis.call('SET', take_key(), take()) end
