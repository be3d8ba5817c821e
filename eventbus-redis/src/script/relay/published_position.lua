-- Returns the published position of a store, and the event at that position.
--
-- KEYS  stream, relay
-- ARGV  store
-- Replies {'at', position, event id or '-'}, or {'unknown'} if the sentinel is lost.

local stream, relay, store = KEYS[1], KEYS[2], ARGV[1]
local record = read_record(redis.call('HGET', relay, store) or nil)
if not record or not is_there(stream, record.sentinel) then return { 'unknown' } end
return { 'at', record.position, record.last }
