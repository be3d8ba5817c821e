-- Removes handled deliveries of at least an age.
-- KEYS  the handled deliveries
-- ARGV  the age in ms, the most deliveries to remove
-- Reply: the number of removed deliveries
local before = whole(now_in_ms() - ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
if #old == 0 then return 0 end
return redis.call('ZREM', KEYS[1], unpack(old))
