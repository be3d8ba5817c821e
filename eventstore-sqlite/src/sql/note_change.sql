UPDATE eventbus_handler_shards SET changes = changes + 1 WHERE handler = ?1 AND shard = ?2
