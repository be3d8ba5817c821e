INSERT INTO eventbus_checkpoints (name, position, updated_at)
VALUES (?1, ?2, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER))
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
