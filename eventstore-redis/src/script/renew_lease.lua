-- Renews a lease that still has this owner and epoch; with a TTL of 0 it is released.
-- KEYS  the lease
-- ARGV  owner, epoch, TTL in ms
-- Reply: 0 if the lease has passed to a new owner
local had = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if had[1] ~= ARGV[1] or had[2] ~= ARGV[2] then return 0 end
local now = now_in_ms()
redis.call('HSET', KEYS[1], 'expires_at', whole(now + ARGV[3]), 'renewed_at', whole(now))
return 1
