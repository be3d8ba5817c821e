INSERT INTO eventbus_unfinished_deliveries (consumer_group, position, tries, dead_since) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (consumer_group, position) DO UPDATE SET tries = excluded.tries, dead_since = excluded.dead_since
