SELECT owner, epoch FROM eventbus_leases
WHERE role = ?1 AND CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) BETWEEN renewed_at AND expires_at - 1
