-- Acknowledges entries with attempts on record.
-- KEYS  stream, retry   ARGV  group, id ...
local count = 0
for i = 2, #ARGV do
  count = count + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
return count
