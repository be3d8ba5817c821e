SELECT count(*) FROM (SELECT 1 FROM eventbus_unfinished_deliveries WHERE dead_since IS NOT NULL LIMIT ?1)
