-- Runs a program: makes all checks, then all writes, or none.
--
-- KEYS  every key, in any order; the steps name them by number
-- ARGV  the steps: each a word and its arguments. Steps that check come before steps that write; effects, which may
--       fail and are then undone, come before writes that cannot fail.
-- Reply: `ok` and what steps have added; or the reason why the script wrote no key: `lost`, `failed` and the
--       key, the command and the server's error; or the reply of a step of the script's own.
local function take_key() return KEYS[tonumber(take())] end

local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

-- If an effect fails, the script undoes the effects before it, the last one first.
local undo, kept, backups = {}, {}, {}

-- For each kind of part of a key: the commands that read, restore and remove it, and a part to test them with.
local PARTS = {
  field = { read = 'HGET', write = 'HSET', remove = 'HDEL', trial = { 'part', '' } },
  member = { read = 'SISMEMBER', write = 'SADD', remove = 'SREM', trial = { 'part' } },
  score = { read = 'ZSCORE', write = 'ZADD', remove = 'ZREM', trial = { '0', 'part' } },
}

-- Tries the undo of a kind of part on a backup key, once. Returns the error if the user may not run it: an undo that the
-- server refuses would leave some effects made.
local function try_undo(commands, backup)
  if commands.is_tried then return end
  backups[#backups + 1] = backup
  -- left by a program whose user may not remove it
  if redis.pcall('EXISTS', backup) == 1 then redis.pcall('DEL', backup) end
  local refused = error_of(redis.pcall(commands.write, backup, unpack(commands.trial)))
  -- The user has the right, but the server has no memory, and the script has made no write. An effect that adds fails
  -- too. After an effect that removes, the server takes every write of the script.
  if refused and is_of_server(refused) then return end
  refused = refused or error_of(redis.pcall(commands.remove, backup, 'part'))
  commands.is_tried = not refused
  return refused
end

-- Saves the part of a key that an effect changes. Returns the error if it cannot be undone.
local function keep_part(kind, key, backup, part)
  local commands = PARTS[kind]
  local old = redis.pcall(commands.read, key, part)
  local refused = error_of(old) or try_undo(commands, backup)
  if refused then return refused end
  undo[#undo + 1] = function()
    if not old or old == 0 then
      redis.call(commands.remove, key, part)
    elseif kind == 'field' then
      redis.call('HSET', key, part, old)
    elseif kind == 'member' then
      redis.call('SADD', key, part)
    else
      redis.call('ZADD', key, old, part)
    end
  end
end

-- Saves a key as a copy, or by renaming it if the effect removes it. Returns the error if it cannot be undone.
local function keep_key(kind, key, backup)
  backups[#backups + 1] = backup
  local saved
  if kind == 'key' then
    saved = redis.pcall('COPY', key, backup, 'REPLACE')
  else
    saved = redis.call('EXISTS', key)
    if saved == 1 then
      local moved = redis.pcall('RENAME', key, backup)
      if error_of(moved) then saved = moved end
    end
  end
  -- the undo of a key that is missing removes it
  local refused = error_of(saved) or (saved == 0 and error_of(redis.pcall('DEL', backup)))
  if refused then return refused end
  undo[#undo + 1] = function()
    if saved == 0 then
      redis.call('DEL', key)
    elseif kind == 'key' then
      redis.call('COPY', backup, key, 'REPLACE')
    else
      redis.call('RENAME', backup, key)
    end
  end
end

-- Saves the part that an effect changes, once: the length separates key and part.
local function keep(kind, key, backup, part)
  local place = (part and kind or 'key') .. ' ' .. #key .. ' ' .. key .. (part or '')
  if kept[place] then return end
  kept[place] = true
  if part then return keep_part(kind, key, backup, part) end
  return keep_key(kind, key, backup)
end

local steps = {}

-- The reply if all steps are made.
local done = { 'ok' }

local function undo_all(key, name, refused)
  -- the server refuses a script's first write with such an error: the undo has no write to revert
  if is_of_server(refused) then return redis.error_reply(refused) end
  for i = #undo, 1, -1 do undo[i]() end
  return { 'failed', key, name, refused }
end

-- Checks that a checkpoint has not moved.
function steps.at()
  if (redis.call('GET', take_key()) or '0') ~= take() then return { 'lost' } end
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
  local key, kind, backup, name, args = take_key(), take(), take_key(), take(), take_list()
  local part
  if kind == 'score' then part = args[#args] elseif kind == 'field' or kind == 'member' then part = args[1] end
  local refused = keep(kind, key, backup, part)
  if not refused then
    refused = error_of(redis.pcall(name, key, unpack(args)))
  end
  if refused then return undo_all(key, name, refused) end
end

-- Removes a key.
function steps.drop() redis.call('UNLINK', take_key()) end

-- Moves a checkpoint.
function steps.set() redis.call('SET', take_key(), take()) end
