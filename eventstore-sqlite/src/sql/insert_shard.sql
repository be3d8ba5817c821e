INSERT INTO eventbus_handler_shards (handler, shard, checkpoint) VALUES (?1, ?2, ?3)
