-- Removes commands of at least an age.
-- KEYS  the hash of commands, their times
-- ARGV  the age in ms, the most commands to remove
-- Reply: the number of removed commands
local before = whole(now_in_ms() - ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', before, 'LIMIT', 0, ARGV[2])
if #old == 0 then return 0 end
redis.call('HDEL', KEYS[1], unpack(old))
return redis.call('ZREM', KEYS[2], unpack(old))
