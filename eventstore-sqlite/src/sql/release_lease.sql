UPDATE eventbus_leases SET ends_at = 0 WHERE role = ?1 AND epoch = ?2
