-- Keeps a lease that has not passed to somebody else; with 0 ms it is given back.
-- KEYS  the lease
-- ARGV  owner, epoch, for how many ms
local had = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if had[1] ~= ARGV[1] or had[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'until', whole(now_in_ms() + ARGV[3]))
return 1
