INSERT INTO eventbus_events (
    version, occurred_at, event_id, schema_version, aggregate_type, aggregate_id, event_type, payload,
    correlation_id, causation_id, tenant_id, actor_id, attributes, recorded_at
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
