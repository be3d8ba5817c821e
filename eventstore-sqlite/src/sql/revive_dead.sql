UPDATE eventbus_unfinished_deliveries SET attempts = ?3, dead_since = NULL
WHERE consumer_group = ?1 AND position = ?2 AND dead_since IS NOT NULL
