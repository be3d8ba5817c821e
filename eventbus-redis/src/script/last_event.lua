-- Tells which event of a store was published last, if its entry is still there.
--
-- KEYS  stream, relay
-- ARGV  store
-- Replies {'event', position, event id} or {'unknown'}.

local stream, relay, store = KEYS[1], KEYS[2], ARGV[1]
local record = read_record(redis.call('HGET', relay, store) or nil)
if not record or record.witness == '-' then return { 'unknown' } end
local entry = redis.call('XRANGE', stream, record.witness, record.witness)[1]
local fields = entry and by_name(entry[2]) or {}
local position = is_number(fields.position)
if fields.store ~= store or not position or not fields.event_id then return { 'unknown' } end
return { 'event', position, fields.event_id }
