-- Owner and epoch of a lease that has not run out.
-- KEYS  the lease
local had = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'until')
if not had[1] or tonumber(had[3]) <= now_in_ms() then return false end
return { had[1], had[2] }
