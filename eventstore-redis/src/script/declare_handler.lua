-- Saves the note of a handler if it is still the one that the caller changed.
-- KEYS  the names of handlers; the handler
-- ARGV  its name; the note before, or '' if there was none; the note; the number of its shards; the checkpoint of a new
--       shard; names and positions of the types that existing shards leave
-- Reply: 0 if the note is a different one
local handler, before = KEYS[2], ARGV[2]
if (redis.call('HGET', handler, 'note') or '') ~= before then return 0 end
redis.call('HSET', handler, 'note', ARGV[3], 'shards', ARGV[4])
if before == '' then redis.call('ZADD', KEYS[1], 0, ARGV[1]) end
for shard = 0, ARGV[4] - 1 do
  local of_shard = shard .. ':'
  if before == '' then
    redis.call('HSET', handler, of_shard .. 'epoch', 0, of_shard .. 'unclean', 0, of_shard .. 'changes', 0,
      of_shard .. 'checkpoint', ARGV[5], of_shard .. 'waiting', '[]', of_shard .. 'started', '[]', of_shard .. 'left', '{}')
  elseif #ARGV > 5 then
    local left = cjson.decode(redis.call('HGET', handler, of_shard .. 'left'))
    for i = 6, #ARGV, 2 do left[ARGV[i]] = ARGV[i + 1] end
    redis.call('HSET', handler, of_shard .. 'left', cjson.encode(left))
  end
end
return 1
