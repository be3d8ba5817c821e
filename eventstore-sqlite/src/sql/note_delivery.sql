INSERT INTO eventbus_deliveries (handler, event_id, handled_at)
VALUES (?1, ?2, CAST(unixepoch('subsec') * 1000 AS INTEGER))
ON CONFLICT DO NOTHING
