SELECT handler, position, attempts, dead_since, is_held FROM eventbus_handler_rows
WHERE handler = ?1 AND position = ?2 AND dead_since IS NOT NULL
