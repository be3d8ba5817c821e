-- The leases whose roles begin with ?1, after ?2, and whether they are held; at most ?3.
SELECT role, owner, epoch, expires_at,
       CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) BETWEEN renewed_at AND expires_at - 1
FROM eventbus_leases
WHERE role >= ?1 AND role > ?2 AND substr(role, 1, length(?1)) = ?1
ORDER BY role
LIMIT ?3
