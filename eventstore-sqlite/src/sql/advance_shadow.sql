-- As advance.sql; the lease is the live one as of the begin of the transaction, so the epoch in the copies fences too.
INSERT INTO eventbus_shadow_checkpoints (name, position, epoch)
SELECT role, ?4, epoch FROM eventbus_leases
WHERE role = ?1 AND epoch = ?2
  AND ?3 = coalesce((SELECT position FROM eventbus_shadow_checkpoints WHERE name = ?1), 0)
  AND ?2 >= coalesce((SELECT epoch FROM eventbus_shadow_checkpoints WHERE name = ?1), 0)
ON CONFLICT (name) DO UPDATE SET position = excluded.position, epoch = excluded.epoch
