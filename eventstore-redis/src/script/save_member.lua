-- Adds a process that runs handlers, or removes it, and those that have not renewed for a day.
-- KEYS  the members, a hash; the times of their last renewals, a sorted set
-- ARGV  its name; its handlers, or '' to remove it
local members, times, name = KEYS[1], KEYS[2], ARGV[1]
local now = now_in_ms()
local gone = redis.call('ZRANGEBYSCORE', times, '-inf', whole(now - 86400000))
if ARGV[2] == '' then
  gone[#gone + 1] = name
end
for _, member in ipairs(gone) do
  redis.call('HDEL', members, member)
  redis.call('ZREM', times, member)
end
if ARGV[2] ~= '' then
  redis.call('HSET', members, name, ARGV[2])
  redis.call('ZADD', times, whole(now), name)
end
return 1
