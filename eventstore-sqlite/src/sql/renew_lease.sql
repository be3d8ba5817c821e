UPDATE eventbus_leases SET ends_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3
WHERE role = ?1 AND epoch = ?2
