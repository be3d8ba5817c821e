#!lua flags=no-writes
-- What a command that only reads replies, and what tells that from another reply.
-- KEYS  the key
-- ARGV  the command, what follows the key
local reply = redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
return { reply, redis.sha1hex(cmsgpack.pack(reply)) }
