-- Takes a partition without an owner, or renews its lease.
-- KEYS  lease   ARGV  owner, duration of the lease (ms)
-- Replies with the epoch, or '' if the partition has a different owner.
redis.call('HDEL', KEYS[1], '') -- so that a server out of memory takes the next write, too: see rebalance.lua
local now = now_in_ms()
local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'expires_at', 'renewed_at')
local is_owned = lease[3] and is_live(lease[3], lease[4], now)
if is_owned and lease[1] == ARGV[1] then
  redis.call('HSET', KEYS[1], 'expires_at', now + ARGV[2], 'renewed_at', now)
  return lease[2]
end
if is_owned then return '' end
return take_lease(KEYS[1], ARGV[1], lease[2], now, ARGV[2])
