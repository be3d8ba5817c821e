-- Finds or makes the note of a rebuild; replies with how far its copies are filled, or nothing if they are of other
-- tables or what is left of a former one.
-- KEYS  the note, the names of its copies
-- ARGV  its tables
local tables = redis.call('HGET', KEYS[1], 'tables')
if tables == ARGV[1] then return redis.call('HGET', KEYS[1], 'position') end
if tables or redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('HSET', KEYS[1], 'tables', ARGV[1], 'position', '0')
return '0'
