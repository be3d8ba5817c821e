SELECT archived_through FROM eventbus_streams
WHERE aggregate_id = ?1 AND aggregate_type = ?2 AND tenant_id = ?3 AND kind = 0
