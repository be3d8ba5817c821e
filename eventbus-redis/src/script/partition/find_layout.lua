-- Finds the layout of a bus; records none.
--
-- KEYS  the bus's `meta`, layout, the stream without partitions
-- ARGV  the format that this release knows
-- Replies {'joined', the number of partitions, the generation of the layout}; {'none'} if there is no bus; or {'too
-- new', the recorded format, the lowest format that its readers must know}.

local meta, layout, stream = KEYS[1], KEYS[2], KEYS[3]
local refusal = format_too_new(meta, ARGV[1])
if refusal then return refusal end
local recorded = redis.call('HMGET', layout, 'partitions', 'generation')
if recorded[1] then return { 'joined', recorded[1], recorded[2] } end
-- a bus of another program has a stream and no `meta`
if redis.call('EXISTS', meta, stream) == 0 then return { 'none' } end
return { 'joined', '1', '0' }
