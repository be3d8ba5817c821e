-- Names the reader of a partition; what another one sent before and that arrives late reads nothing.
-- KEYS lease   ARGV reader
redis.call('HSET', KEYS[1], 'reader', ARGV[1])
return 1
