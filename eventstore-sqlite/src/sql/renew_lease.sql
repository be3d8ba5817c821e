UPDATE eventbus_leases
SET renewed_at = CAST(round(unixepoch('subsec') * 1e6) AS INTEGER),
    expires_at = CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) + ?3
WHERE role = ?1 AND epoch = ?2
