-- Finds a bus; writes nothing.
-- KEYS  the bus's `meta`, stream
-- ARGV  the format that this release knows
-- Replies {'joined'}; {'none'} if there is no bus; or {'too new', the recorded format, the lowest format that its readers
-- must know}.
local refusal = format_too_new(KEYS[1], ARGV[1])
if refusal then return refusal end
-- a bus of another program has a stream and no `meta`
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then return { 'none' } end
return { 'joined' }
