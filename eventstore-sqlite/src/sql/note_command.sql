INSERT INTO eventbus_commands (key, tenant_id, request, answer, handled_at)
VALUES (?1, ?2, ?3, ?4, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER))
ON CONFLICT DO NOTHING
