-- Registers the reader of a partition: a late request of a previous reader then reads no entries.
-- KEYS  lease   ARGV  reader
redis.call('HDEL', KEYS[1], '') -- so that a server out of memory takes the next write, too: see rebalance.lua
redis.call('HSET', KEYS[1], 'reader', ARGV[1])
return 1
