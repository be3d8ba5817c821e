SELECT count(*) FROM (SELECT 1 FROM eventbus_handler_rows WHERE dead_since IS NOT NULL LIMIT ?1)
