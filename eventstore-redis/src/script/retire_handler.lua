-- Deletes a handler that no live process owns.
-- KEYS  the names of handlers; the handler; its waiting rows; its dead rows; the times of dead letters
-- ARGV  its name
-- Reply: the number of rows that waited; nil if there is no such handler, or it is owned
local names, handler, waiting, dead, times = unpack(KEYS)
local shards, now = redis.call('HGET', handler, 'shards'), now_in_ms()
if not shards then return false end
for shard = 0, shards - 1 do
  if is_taken(handler, shard, nil, now) then return false end
end
local rows, waited = redis.call('HGETALL', dead), redis.call('HLEN', waiting)
for i = 1, #rows, 2 do redis.call('ZREM', times, rows[i] .. ':' .. ARGV[1]) end
redis.call('DEL', handler, waiting, dead)
redis.call('ZREM', names, ARGV[1])
return waited
