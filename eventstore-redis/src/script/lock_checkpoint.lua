-- Locks a checkpoint for a transaction, if its lease and its position are as the transaction expects.
-- KEYS  the lease; the checkpoint, a text, or in a hash the field `position`; the lock
-- ARGV  owner, epoch, expected position, token of the transaction, TTL of the lock in ms, `text` or `hash`
-- Reply: `ok`; `busy` if a different transaction has the lock; `lost` if the lease or the checkpoint has moved
local has = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if has[1] ~= ARGV[1] or has[2] ~= ARGV[2] then return 'lost' end
local at
if ARGV[6] == 'hash' then
  at = redis.call('HGET', KEYS[2], 'position')
else
  at = redis.call('GET', KEYS[2]) or '0'
end
if at ~= ARGV[3] then return 'lost' end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[4] then return 'busy' end
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
return 'ok'
