-- Ends a dead letter: it waits from now on, or goes. Replies with 0 if it is none.
-- KEYS  the waiting deliveries of the group; the dead letters of all groups; their tries
-- ARGV  its member among the dead letters, its position, its tries from now on, or ''
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
return 1
