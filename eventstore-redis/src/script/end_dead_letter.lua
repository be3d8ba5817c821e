-- Ends a dead letter: makes it a waiting delivery, or removes it.
-- KEYS  the waiting deliveries of the group; the dead letters of all groups; their delivery attempts
-- ARGV  its member among the dead letters; its position; its delivery attempts if it waits from now on, or ''
-- Reply: 0 if there is no such dead letter
local refused = missing_right(KEYS[1], 'HDEL', 'HSET')
if refused then return redis.error_reply(refused) end
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
return 1
