e.position, e.version, e.occurred_at, e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload,
    e.causation_id, e.actor_id, e.attributes, e.recorded_at, e.original_recorded_at, e.has_sealed_fields,
    e.stream_no
