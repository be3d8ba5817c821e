-- Removes keys of a dropped rebuild, unless a new rebuild has written its note: the script may run late, and the keys
-- then belong to the new one.
-- KEYS  the note, the keys to remove ...
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
return redis.call('UNLINK', unpack(KEYS, 2))
