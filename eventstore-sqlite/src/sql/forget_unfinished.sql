DELETE FROM eventbus_unfinished_deliveries WHERE consumer_group = ?1 AND position = ?2
