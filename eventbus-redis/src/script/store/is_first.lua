-- Looks whether a delivery is noted, and keeps others from noting it for a while.
-- KEYS  what was handled; who is about to note it
-- ARGV  the delivery, who asks, for how many ms
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'lost' end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return 'busy' end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 'ok'
