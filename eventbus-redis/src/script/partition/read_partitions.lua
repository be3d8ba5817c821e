-- Reads new entries from partitions that the consumer owns.
-- KEYS  stream, lease, ...   ARGV  group, count, then epoch and reader of each partition ...
-- Replies for each partition with entries, none, or the refusal.
local replies = {}
for i = 1, #KEYS, 2 do
  local lease = redis.call('HMGET', KEYS[i + 1], 'epoch', 'reader')
  local reply = 'FENCED'
  if lease[1] == ARGV[i + 2] and lease[2] == ARGV[i + 3] then
    local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], 'owner', 'COUNT', ARGV[2], 'STREAMS', KEYS[i], '>')
    if not read then
      reply = {}
    elseif read.err then
      reply = read.err
    else
      reply = read[1][2]
    end
  end
  replies[#replies + 1] = reply
end
return replies
