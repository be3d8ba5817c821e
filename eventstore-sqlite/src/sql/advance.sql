-- From ?3 to ?4, under the lease of role ?1 with epoch ?2; nothing is written if that is not so.
INSERT INTO eventbus_checkpoints (name, position)
SELECT role, ?4 FROM eventbus_leases
WHERE role = ?1 AND epoch = ?2
  AND ?3 = coalesce((SELECT position FROM eventbus_checkpoints WHERE name = ?1), 0)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
