-- Publishes events, each to its partition: all of them or none.
-- KEYS  streams ...   ARGV  for each event: the number of its key, that of its names and values, and these ...
-- Replies with the ids.
for _, stream in ipairs(KEYS) do redis.call('XLEN', stream) end
local ids, i = {}, 1
while i <= #ARGV do
  local stream, count = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1])
  ids[#ids + 1] = add(stream, unpack(ARGV, i + 2, i + 1 + count))
  i = i + 2 + count
end
remember()
return ids
