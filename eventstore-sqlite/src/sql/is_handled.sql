SELECT 1 FROM eventbus_deliveries
WHERE handler = ?1 AND event_id = ?2 AND aggregate_id = ?3 AND aggregate_type = ?4 AND tenant_id = ?5
