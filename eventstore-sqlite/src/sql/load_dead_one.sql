SELECT consumer_group, position, attempts, dead_since FROM eventbus_unfinished_deliveries
WHERE consumer_group = ?1 AND position = ?2 AND dead_since IS NOT NULL
