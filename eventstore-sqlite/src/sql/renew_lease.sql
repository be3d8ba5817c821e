UPDATE eventbus_leases
SET renewed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER),
    ends_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3
WHERE role = ?1 AND epoch = ?2
