-- Joins a layout, the number of partitions, or records it if there is none.
--
-- Records the format of the bus, too, unless one is recorded.
--
-- KEYS  the bus's `meta`, layout, the stream without partitions, partitions ...
-- ARGV  the wanted number of partitions, the known generation of the layout or '0', the format that this release
--       writes, the lowest format that its readers must know
-- Replies {'joined', the number of partitions, the generation of the layout}; or {'too new', the recorded format, the
-- lowest format that its readers must know}. Records nothing if the number is not the wanted one, or the format is too
-- new.

local meta, layout, stream = KEYS[1], KEYS[2], KEYS[3]
local wanted, known = ARGV[1], ARGV[2]
local refusal = format_too_new(meta, ARGV[3])
if refusal then return refusal end

local function joined(partitions, generation)
  if partitions == wanted then record_format(meta, ARGV[3], ARGV[4]) end
  return { 'joined', partitions, generation }
end

local recorded = redis.call('HMGET', layout, 'partitions', 'generation')
if recorded[1] and not is_smaller(recorded[2], known) then return joined(recorded[1], recorded[2]) end
if wanted == '1' then return joined(wanted, known) end

local before = newest_of(stream)
if known == '0' and before ~= '0-0' and before ~= CLOSED_ID then return joined('1', known) end
local newest = '0-0'
for i = 4, #KEYS do
  local id = newest_of(KEYS[i])
  if is_before(newest, id) then newest = id end
end
local time = redis.call('TIME')
local generation = known ~= '0' and known or string.format('%.0f', time[1] * 1000000 + time[2])
-- seals the stream: a publisher that does not know of partitions must fail
if redis.call('EXISTS', stream) == 1 then redis.call('XSETID', stream, CLOSED_ID) end
redis.call('HSET', layout, 'partitions', wanted, 'generation', generation, 'newest', newest)
return joined(wanted, generation)
