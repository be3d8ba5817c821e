DELETE FROM eventbus_deliveries WHERE (handler, event_id, aggregate_id, aggregate_type, tenant_id) IN (
    SELECT handler, event_id, aggregate_id, aggregate_type, tenant_id FROM eventbus_deliveries
    WHERE handled_at <= CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) - ?1
    ORDER BY handled_at LIMIT ?2
)
