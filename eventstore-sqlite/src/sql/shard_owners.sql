SELECT owner FROM eventbus_handler_shards WHERE handler = ?1 AND owner IS NOT NULL
