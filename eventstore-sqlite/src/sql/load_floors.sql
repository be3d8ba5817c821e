SELECT consumer_group, position FROM eventbus_floors WHERE destination = ?1 ORDER BY consumer_group
