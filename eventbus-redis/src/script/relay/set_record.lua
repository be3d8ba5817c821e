-- Sets the record of a store, if it is the one that the caller has read.
-- KEYS  relay   ARGV  store, the record as read or '', the new record
-- Replies with the record.
local record = redis.call('HGET', KEYS[1], ARGV[1])
if (record or '') ~= ARGV[2] then return record or '' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
