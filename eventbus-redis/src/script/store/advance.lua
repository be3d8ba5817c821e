-- Looks whether a checkpoint may be moved, and keeps others from moving it for a while.
-- KEYS  the lease; the checkpoint, a text, or in a hash the field `position`; who is about to move it
-- ARGV  owner, epoch, from where, who asks, for how many ms, `text` or `hash`
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
