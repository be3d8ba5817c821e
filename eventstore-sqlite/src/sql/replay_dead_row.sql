UPDATE eventbus_handler_rows SET attempts = ?3, dead_since = NULL, is_held = 0
WHERE handler = ?1 AND position = ?2 AND dead_since IS NOT NULL
RETURNING shard
