SELECT count(*) FROM eventbus_handler_rows WHERE handler = ?1 AND dead_since IS NULL
