INSERT INTO eventbus_deliveries (handler, event_id, handled_at)
VALUES (?1, ?2, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER))
ON CONFLICT DO NOTHING
