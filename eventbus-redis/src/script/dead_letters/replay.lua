-- Moves dead letters back to the stream.
--
-- The fields before the last `original_message_id` are those of the entry, the rest describes the dead letter. Without
-- that field the names decide. The script never interprets values: they may be any bytes.
--
-- KEYS  stream, dead letters
-- ARGV  ids
-- Replies for each id: 1 if it was replayed, 0 if it is missing, -1 if it has no fields to replay, or the name of its group
-- if that does not exist: no consumer would ever get it.

local ABOUT = {
  original_message_id = true, retry_count = true, dlq_timestamp = true, error = true, handler = true, group = true,
  attempts = true, first_failed_at = true, last_failed_at = true, done_handlers = true,
}
-- from an earlier replay, or replaced here
local DROPPED = {replay_group = true, replay_done = true}
-- a position belongs to the entry that was published first
local RENAMED = {position = 'original_position'}

local function split(fields)
  local first = #fields + 1
  for i = 1, #fields, 2 do
    if fields[i] == 'original_message_id' then first = i end
  end
  local delivered, about = {}, {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if i >= first or (first > #fields and ABOUT[name]) then
      about[name] = value
    elseif not DROPPED[name] then
      delivered[#delivered + 1] = RENAMED[name] or name
      delivered[#delivered + 1] = value
    end
  end
  return delivered, about
end

local groups
local function exists(group)
  groups = groups or groups_of(KEYS[1])
  return groups[group] ~= nil
end

local function replay(id)
  local found = redis.call('XRANGE', KEYS[2], id, id)[1]
  if not found then return 0 end
  local delivered, about = split(found[2])
  if #delivered == 0 then return -1 end
  if about.group then
    if not exists(about.group) then return about.group end
    delivered[#delivered + 1] = 'replay_group'
    delivered[#delivered + 1] = about.group
    if about.done_handlers then
      delivered[#delivered + 1] = 'replay_done'
      delivered[#delivered + 1] = about.done_handlers
    end
  end
  redis.call('XADD', KEYS[1], '*', unpack(delivered))
  redis.call('XDEL', KEYS[2], id)
  return 1
end

local replies = {}
for i, id in ipairs(ARGV) do replies[i] = replay(id) end
return replies
