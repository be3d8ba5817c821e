INSERT INTO eventbus_events (
    stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type, payload,
    causation_id, actor_id, attributes, original_recorded_at, tags
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
