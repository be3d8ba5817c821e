SELECT position, attempts FROM eventbus_unfinished_deliveries
WHERE consumer_group = ?1 AND dead_since IS NULL
ORDER BY position
