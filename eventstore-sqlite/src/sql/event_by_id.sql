SELECT position, version, occurred_at, event_id, schema_version, aggregate_type, aggregate_id, event_type, payload,
    correlation_id, causation_id, tenant_id, actor_id, attributes, recorded_at
FROM eventbus_events
WHERE event_id = ?1
