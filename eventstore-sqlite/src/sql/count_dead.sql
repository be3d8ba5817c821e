SELECT count(*) FROM eventbus_unfinished_deliveries WHERE dead_since IS NOT NULL
