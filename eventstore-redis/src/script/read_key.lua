-- Runs a command that only reads; replies with its reply and a hash of it.
-- KEYS  the key
-- ARGV  the command, the arguments behind the key
local reply = redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
return { reply, fingerprint(ARGV[1], reply) }
