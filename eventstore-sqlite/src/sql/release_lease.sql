UPDATE eventbus_leases SET expires_at = 0 WHERE role = ?1 AND epoch = ?2
