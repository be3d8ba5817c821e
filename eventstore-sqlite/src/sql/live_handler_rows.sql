SELECT shard, position, attempts, dead_since, is_held FROM eventbus_handler_rows
WHERE handler = ?1 AND (dead_since IS NULL OR is_held)
ORDER BY position
