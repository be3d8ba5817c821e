-- Ends a dead letter: lets it wait again, or removes it; and counts the change at its shard.
-- KEYS  the handler; its waiting rows; its dead rows; the times of dead letters
-- ARGV  position; member among the times; attempts if it waits from now on, or ''
-- Reply: 0 if it is no dead letter
local handler, waiting, dead, times = unpack(KEYS)
local refused = missing_right(handler, 'HINCRBY', 'HSET') or missing_right(times, 'ZREM')
if refused then return redis.error_reply(refused) end
local row = redis.call('HGET', dead, ARGV[1])
if not row then return 0 end
local shard = string.match(row, '^%d+')
redis.call('HDEL', dead, ARGV[1])
redis.call('ZREM', times, ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', waiting, ARGV[1], shard .. ' 0 - ' .. ARGV[3]) end
redis.call('HINCRBY', handler, shard .. ':changes', 1)
return 1
