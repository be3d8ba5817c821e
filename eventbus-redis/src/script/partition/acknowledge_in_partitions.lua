-- Acknowledges entries of several partitions.
-- KEYS  stream, lease, ...   ARGV  group, then for each partition: epoch, number of ids, ids ...
-- Replies for each partition 1 if the consumer still owns it, else 0: then it acknowledges none there.
local replies, at = {}, 2
for i = 1, #KEYS, 2 do
  local epoch, count = ARGV[at], tonumber(ARGV[at + 1])
  local is_owner = redis.call('HGET', KEYS[i + 1], 'epoch') == epoch
  if is_owner then redis.call('XACK', KEYS[i], ARGV[1], unpack(ARGV, at + 2, at + 1 + count)) end
  replies[#replies + 1] = is_owner and 1 or 0
  at = at + 2 + count
end
return replies
