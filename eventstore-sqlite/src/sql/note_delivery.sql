INSERT INTO eventbus_deliveries (handler, event_id, aggregate_id, aggregate_type, tenant_id, handled_at)
VALUES (?1, ?2, ?3, ?4, ?5, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER))
ON CONFLICT DO NOTHING
