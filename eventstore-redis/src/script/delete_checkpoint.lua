-- Deletes a checkpoint. Its name stays listed if it is also the role of a lease.
-- KEYS  the checkpoint, the lease, the names of checkpoints and leases   ARGV name
local has_lease = redis.call('EXISTS', KEYS[2]) == 1
redis.call('DEL', KEYS[1])
if not has_lease then redis.call('ZREM', KEYS[3], ARGV[1]) end
