SELECT owner, epoch FROM eventbus_leases
WHERE role = ?1 AND ends_at > CAST(unixepoch('subsec') * 1000 AS INTEGER)
