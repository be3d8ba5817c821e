-- The shards of the handlers in ?1, a JSON array.
SELECT handler, shard, owner, epoch, changes FROM eventbus_handler_shards
WHERE handler IN (SELECT value FROM json_each(?1))
