-- Registers the reader of a partition: a late request of a previous reader then reads no entries.
-- KEYS  lease   ARGV  reader
redis.call('HSET', KEYS[1], 'reader', ARGV[1])
return 1
