-- Replaces a note, and lists its name.
-- KEYS  the note, the names of notes   ARGV name, text
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('SET', KEYS[1], ARGV[2])
