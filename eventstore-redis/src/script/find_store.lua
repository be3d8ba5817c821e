-- Finds a store; creates none. Replies with `open` and its id, with `none`, or with `too new` and the two numbers of its
-- format.
-- KEYS  the store's `meta`
-- ARGV  the format that this release knows
local refusal = format_too_new(KEYS[1], ARGV[1])
if refusal then return refusal end
local id = redis.call('HGET', KEYS[1], 'id')
if not id then return { 'none' } end
return { 'open', id }
