-- Releases partitions at once.
-- KEYS  leases ...   ARGV  their epochs ...
-- Replies with the number of leases that the caller still owned.
local count = 0
for i, lease in ipairs(KEYS) do
  if redis.call('HGET', lease, 'epoch') == ARGV[i] then
    redis.call('HDEL', lease, '') -- so that a server out of memory takes the next write, too: see rebalance.lua
    redis.call('HSET', lease, 'expires_at', 0)
    count = count + 1
  end
end
return count
