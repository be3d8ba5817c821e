-- Forgets deliveries that were noted so long ago, and replies with how many.
-- KEYS  what was handled
-- ARGV  the age in ms, how many at most
local before = whole(now_in_ms() - ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
if #old == 0 then return 0 end
return redis.call('ZREM', KEYS[1], unpack(old))
