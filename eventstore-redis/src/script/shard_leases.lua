-- Returns true if a shard has an owner other than `member`, whose lease has not expired; and its owner.
local function is_taken(handler, shard, member, now)
  local had = redis.call('HMGET', handler, shard .. ':owner', shard .. ':expires_at', shard .. ':renewed_at')
  return had[1] and had[1] ~= member and is_live(had[2], had[3], now), had[1]
end

-- Sets or renews the lease of a shard.
local function renew(handler, shard, ttl, now)
  redis.call('HSET', handler, shard .. ':expires_at', whole(now + ttl), shard .. ':renewed_at', whole(now))
end

