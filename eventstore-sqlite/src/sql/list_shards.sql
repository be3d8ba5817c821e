SELECT shard, owner, epoch, checkpoint, json_array_length(waiting), json_array_length(started), left_types
FROM eventbus_handler_shards WHERE handler = ?1 ORDER BY shard
