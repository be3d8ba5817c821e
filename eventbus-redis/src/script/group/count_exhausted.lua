-- Counts entries that used up their attempts and stay pending.
-- KEYS  retry, stream   ARGV  group
local count = 0
local noted = redis.call('HGETALL', KEYS[1])
for i = 1, #noted, 2 do
  if string.find(noted[i + 1], '"is_exhausted":true', 1, true)
    and #redis.call('XPENDING', KEYS[2], ARGV[1], noted[i], noted[i], 1) == 1 then
    count = count + 1
  end
end
return count
