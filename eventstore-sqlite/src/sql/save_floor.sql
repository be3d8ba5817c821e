INSERT INTO eventbus_floors (destination, consumer_group, position) VALUES (?1, ?2, ?3)
ON CONFLICT (destination, consumer_group) DO UPDATE SET position = excluded.position
