SELECT owner, epoch FROM eventbus_leases
WHERE role = ?1 AND CAST(unixepoch('subsec') * 1000 AS INTEGER) BETWEEN renewed_at AND ends_at - 1
