-- Records the format of the bus, unless one is recorded.
-- KEYS  the bus's `meta`
-- ARGV  the format that this release writes, the lowest format that its readers must know
-- Replies {'joined'}; or {'too new', the recorded format, the lowest format that its readers must know}, and records
-- nothing.
local refusal = format_too_new(KEYS[1], ARGV[1])
if refusal then return refusal end
record_format(KEYS[1], ARGV[1], ARGV[2])
return { 'joined' }
