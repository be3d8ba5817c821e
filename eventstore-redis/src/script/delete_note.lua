-- Removes a note.
-- KEYS  the note, the names of notes   ARGV name
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
