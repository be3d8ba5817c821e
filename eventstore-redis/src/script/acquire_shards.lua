-- Acquires those shards that are free, or the member's own.
-- KEYS  the handler of each wanted shard
-- ARGV  the member; the TTL of the lease in ms; the numbers of the wanted shards
-- Reply for each: nothing, or whether its owner has crashed, then its epoch, unclean ends, changes, checkpoint, waiting and
--       started events, left types
local member, ttl, now = ARGV[1], ARGV[2], now_in_ms()
local replies = {}
for i, handler in ipairs(KEYS) do
  local shard, reply = ARGV[2 + i], {}
  local of_shard = shard .. ':'
  local is_owned, owner = is_taken(handler, shard, member, now)
  if not is_owned and redis.call('HEXISTS', handler, of_shard .. 'epoch') == 1 then
    local has_crashed = owner and owner ~= member
    redis.call('HSET', handler, of_shard .. 'owner', member)
    renew(handler, shard, ttl, now)
    redis.call('HINCRBY', handler, of_shard .. 'epoch', 1)
    if has_crashed then redis.call('HINCRBY', handler, of_shard .. 'unclean', 1) end
    reply = redis.call('HMGET', handler, of_shard .. 'epoch', of_shard .. 'unclean', of_shard .. 'changes',
      of_shard .. 'checkpoint', of_shard .. 'waiting', of_shard .. 'started', of_shard .. 'left')
    table.insert(reply, 1, has_crashed and '1' or '0')
  end
  replies[i] = reply
end
return replies
