-- Replies with owner and epoch of a lease that has not run out, else with nil.
-- KEYS  the lease
local had = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'expires_at', 'renewed_at')
if not had[1] or not is_live(had[3], had[4], now_in_ms()) then return false end
return { had[1], had[2] }
