-- Returns the owned shards of a member and the free ones of handlers, and renews its leases and its life.
-- KEYS  the times of the members' last renewals; the paused groups; the handlers
-- ARGV  the member; the time for which to renew, or ''; the time without a renewal after which a member is not live, both
--       in ms; the number of handlers, the first ones, whose free shards to return; for each owned shard the number of its
--       handler among the keys, its own number and its epoch
-- Reply: for each owned shard its number of changes, or '' if it has passed on; number of the handler and own number of each
--        free shard; the live members; the paused groups
local member, ttl, now = ARGV[1], ARGV[2], now_in_ms()
local held, is_held, free = {}, {}, {}
for i = 5, #ARGV, 3 do
  local handler, shard = ARGV[i], ARGV[i + 1]
  local had = redis.call('HMGET', KEYS[2 + handler], shard .. ':owner', shard .. ':epoch', shard .. ':changes')
  local is_own = had[1] == member and had[2] == ARGV[i + 2]
  held[#held + 1] = is_own and had[3] or ''
  is_held[handler .. ':' .. shard] = is_own
end
for handler = 1, tonumber(ARGV[4]) do
  local key = KEYS[2 + handler]
  for shard = 0, (redis.call('HGET', key, 'shards') or 0) - 1 do
    if not is_held[handler .. ':' .. shard] and not is_taken(key, shard, member, now) then
      free[#free + 1] = handler
      free[#free + 1] = shard
    end
  end
end
if ttl ~= '' then
  redis.call('ZADD', KEYS[1], whole(now), member)
  for i = 5, #ARGV, 3 do
    if is_held[ARGV[i] .. ':' .. ARGV[i + 1]] then renew(KEYS[2 + ARGV[i]], ARGV[i + 1], ttl, now) end
  end
end
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(now - ARGV[3]), whole(now))
return { held, free, live, redis.call('ZRANGEBYLEX', KEYS[2], '-', '+') }
