-- Reads new entries from partitions that the consumer owns: at least one of each that has some, and further ones up
-- to a number of entries and of bytes in total.
--
-- The size of an entry is unknown before the consumer has it. So the partitions share the remaining room, and each
-- further entry counts as large as the largest so far. Before the first entry, they share the maximum of one partition.
--
-- KEYS  stream, lease, ...
-- ARGV  group, maximum number of entries of one partition, of all, maximum number of bytes, then epoch and reader of
--       each partition ...
-- Replies for each partition {entries, 1 if there may be more}, or the refusal.
local most, room, bytes, largest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), 0

-- Returns the number of entries that each of some partitions can get.
local function share(partitions)
  local fitting = largest > 0 and math.min(room, bytes / largest) or most
  return math.min(most, math.floor(fitting / partitions))
end

-- Adds entries to the reply of a partition; returns the refusal, if any.
local function read(stream, reply, count)
  local found = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], 'owner', 'COUNT', count, 'STREAMS', stream, '>')
  if found and found.err then return found.err end
  found = found and found[1][2] or {}
  for _, entry in ipairs(found) do
    local size = bytes_of(entry)
    room, bytes, largest = room - 1, bytes - size, math.max(largest, size)
    table.insert(reply[1], entry)
  end
  reply[2] = #found >= count and 1 or 0
end

local replies, open = {}, {}
for i = 1, #KEYS, 2 do
  local lease = redis.call('HMGET', KEYS[i + 1], 'epoch', 'reader')
  local reply = 'FENCED'
  if lease[1] == ARGV[i + 4] and lease[2] == ARGV[i + 5] then
    reply = { {}, 0 }
    local refusal = read(KEYS[i], reply, math.max(1, share((#KEYS - i + 1) / 2)))
    if refusal then
      reply = refusal
    elseif reply[2] == 1 then
      open[#open + 1] = { stream = KEYS[i], reply = reply }
    end
  end
  replies[#replies + 1] = reply
end
-- the room that other partitions left
for i, part in ipairs(open) do
  local count = share(#open - i + 1)
  if count > 0 then read(part.stream, part.reply, count) end
end
return replies
