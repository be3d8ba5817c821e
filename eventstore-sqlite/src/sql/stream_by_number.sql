SELECT aggregate_type, aggregate_id, tenant_id FROM eventbus_streams WHERE stream_no = ?1
