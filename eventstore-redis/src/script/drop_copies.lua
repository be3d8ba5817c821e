-- Removes keys of a rebuild that was dropped. May run late: then a new rebuild has its note, and the keys are its own.
-- KEYS  the note, the keys to remove ...
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
return redis.call('UNLINK', unpack(KEYS, 2))
