-- Joins a layout, the number of partitions, or records it if there is none.
--
-- KEYS  layout, the stream without partitions, partitions ...
-- ARGV  the wanted number of partitions, the known generation of the layout or '0'
-- Replies {the number of partitions, the generation of the layout}; records no layout if that number is not the wanted
-- one.

local layout, stream = KEYS[1], KEYS[2]
local wanted, known = ARGV[1], ARGV[2]
local recorded = redis.call('HMGET', layout, 'partitions', 'generation')
if recorded[1] and not is_smaller(recorded[2], known) then
  return { recorded[1], recorded[2] }
end
if wanted == '1' then return { wanted, known } end

local before = newest_of(stream)
if known == '0' and before ~= '0-0' and before ~= CLOSED_ID then return { '1', known } end
local newest = '0-0'
for i = 3, #KEYS do
  local id = newest_of(KEYS[i])
  if is_before(newest, id) then newest = id end
end
local time = redis.call('TIME')
local generation = known ~= '0' and known or string.format('%.0f', time[1] * 1000000 + time[2])
-- seals the stream: a publisher that does not know of partitions must fail
if redis.call('EXISTS', stream) == 1 then redis.call('XSETID', stream, CLOSED_ID) end
redis.call('HSET', layout, 'partitions', wanted, 'generation', generation, 'newest', newest)
return { wanted, generation }
