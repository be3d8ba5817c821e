-- Finds or makes the note of a rebuild.
-- KEYS  the note, the names of its copies
-- ARGV  its tables
-- Reply: the position up to which its copies are filled, or nil if copies of other tables or of a former rebuild exist
local tables = redis.call('HGET', KEYS[1], 'tables')
if tables == ARGV[1] then return redis.call('HGET', KEYS[1], 'position') end
if tables or redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('HSET', KEYS[1], 'tables', ARGV[1], 'position', '0')
return '0'
