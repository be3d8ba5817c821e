DELETE FROM eventbus_handler_shards WHERE handler = ?1
