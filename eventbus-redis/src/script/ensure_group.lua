-- Creates a group if it is missing; says where it begins, or nothing if it is there.
-- KEYS stream, floors   ARGV group, where a new group begins, '1' if the caller knows the group from before
--
-- A group that was known before goes on with the first entry that it had not finished, as far as the stream still is
-- the one it was; else it begins with the oldest entry, never later.
local stream, floors, group, start = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local function id(text)
  local ms, seq = string.match(text, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- the largest id below another one
local function below(text)
  local ms, seq = id(text)
  if seq > 0 then return string.format('%.0f-%.0f', ms, seq - 1) end
  if ms > 0 then return string.format('%.0f-18446744073709551615', ms - 1) end
  return '0-0'
end

local floor = redis.call('HGET', floors, group)
if floor or ARGV[3] == '1' then
  start = '0'
  if floor and redis.call('EXISTS', stream) == 1 then
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        local last_ms, last_seq = id(info[i + 1])
        local ms, seq = id(below(floor))
        if last_ms > ms or (last_ms == ms and last_seq >= seq) then start = below(floor) end
      end
    end
  end
end
local created = redis.pcall('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if type(created) == 'table' and created.err then
  if string.find(created.err, 'BUSYGROUP', 1, true) then return false end
  return redis.error_reply(created.err)
end
return start
