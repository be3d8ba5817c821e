-- Replaces a checkpoint, and lists its name.
-- KEYS  the checkpoint, the names of checkpoints and leases   ARGV name, position
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('SET', KEYS[1], ARGV[2])
