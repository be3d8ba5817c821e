-- Locks a delivery for a transaction, if it is not handled yet.
-- KEYS  the handled deliveries; the lock
-- ARGV  the delivery, token of the transaction, TTL of the lock in ms
-- Reply: `ok`; `busy` if a different transaction has the lock; `lost` if the delivery is handled
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'lost' end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return 'busy' end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 'ok'
