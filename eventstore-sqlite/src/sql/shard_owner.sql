SELECT owner FROM eventbus_handler_shards WHERE handler = ?1 AND shard = ?2
