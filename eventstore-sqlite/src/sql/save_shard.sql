-- Saves the progress of a shard if ?3 owns it in the epoch ?4; a type that is null in ?9 is left no more.
UPDATE eventbus_handler_shards
SET checkpoint = ?5, waiting = ?6, started = ?7, unclean = iif(?8, 0, unclean),
    left_types = json_patch(left_types, ?9), owner = iif(?10, NULL, owner)
WHERE handler = ?1 AND shard = ?2 AND owner = ?3 AND epoch = ?4
