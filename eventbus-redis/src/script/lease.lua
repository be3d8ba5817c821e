-- Takes a partition that nobody owns, or keeps it.
-- KEYS lease   ARGV owner, how long the lease lasts (ms)
-- Replies with the epoch, or '' if somebody else owns the partition.
local now = now_in_ms()
local lease = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'until', 'renewed')
local is_owned = lease[3] and is_live(lease[3], lease[4], now)
if is_owned and lease[1] == ARGV[1] then
  redis.call('HSET', KEYS[1], 'until', now + ARGV[2], 'renewed', now)
  return lease[2]
end
if is_owned then return '' end
return take_lease(KEYS[1], ARGV[1], lease[2], now, ARGV[2])
