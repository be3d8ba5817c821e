-- Acquires the lease of a role: if it is free, or from any owner. Lists the role.
-- KEYS  the lease, the names of checkpoints and leases
-- ARGV  owner, TTL in ms, `free` or `any`, the role
-- Reply: the epoch, or nil if a different owner has the lease
local lease, owner, ttl, whose = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local now = now_in_ms()
local had = redis.call('HMGET', lease, 'owner', 'epoch', 'expires_at', 'renewed_at')
local is_taken = had[1] and had[1] ~= owner and is_live(had[3], had[4], now)
if whose == 'free' and is_taken then return false end
local epoch = whole(math.max((tonumber(had[2]) or 0) + 1, now * 1000))
redis.call('ZADD', KEYS[2], 0, ARGV[4])
redis.call('HSET', lease, 'owner', owner, 'epoch', epoch, 'expires_at', whole(now + ttl), 'renewed_at', whole(now))
return epoch
