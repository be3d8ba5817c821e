-- Keeps a lease that has not passed to somebody else; with 0 ms it is given back.
-- KEYS  the lease
-- ARGV  owner, epoch, for how many ms
local had = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if had[1] ~= ARGV[1] or had[2] ~= ARGV[2] then return 0 end
local now = now_in_ms()
redis.call('HSET', KEYS[1], 'until', whole(now + ARGV[3]), 'renewed', whole(now))
return 1
