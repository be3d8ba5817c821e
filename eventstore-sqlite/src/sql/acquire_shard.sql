-- Makes ?3 the owner of a shard; a different former owner that is still named did not release it.
UPDATE eventbus_handler_shards SET owner = ?3, epoch = epoch + 1, unclean = unclean + (coalesce(owner, ?3) <> ?3)
WHERE handler = ?1 AND shard = ?2
RETURNING epoch, unclean, changes, checkpoint, waiting, started, left_types
