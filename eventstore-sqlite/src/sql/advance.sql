-- Moves the checkpoint of role ?1 from ?3 to ?4; writes no row if its lease has no epoch ?2, or the checkpoint is not
-- ?3.
INSERT INTO eventbus_checkpoints (name, position, updated_at)
SELECT role, ?4, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) FROM eventbus_leases
WHERE role = ?1 AND epoch = ?2
  AND ?3 = coalesce((SELECT position FROM eventbus_checkpoints WHERE name = ?1), 0)
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
