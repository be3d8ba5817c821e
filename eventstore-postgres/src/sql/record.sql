e.position, e.version, e.occurred_at, e.event_id, e.correlation_id, e.schema_version, e.aggregate_id,
    e.aggregate_type, e.event_type, e.payload, e.causation_id, e.tenant_id, e.actor_id, e.attributes, e.recorded_at
