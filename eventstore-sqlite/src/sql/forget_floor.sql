DELETE FROM eventbus_floors WHERE destination = ?1 AND consumer_group = ?2
