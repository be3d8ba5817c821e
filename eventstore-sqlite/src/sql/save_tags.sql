UPDATE eventbus_events SET tags = ?2 WHERE position = ?1
