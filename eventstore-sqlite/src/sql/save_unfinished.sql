INSERT INTO eventbus_unfinished_deliveries (consumer_group, position, attempts, dead_since) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (consumer_group, position) DO UPDATE SET attempts = excluded.attempts, dead_since = excluded.dead_since
