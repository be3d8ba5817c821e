-- The events of an append, one array per column.
unnest(
        $4::uuid[], $5::text[], $6::integer[], $7::timestamptz[], $8::text[], $9::uuid[], $10::uuid[], $11::text[],
        $12::text[], $13::timestamptz[])
    WITH ORDINALITY e(
        event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id, actor_id,
        attributes, original_recorded_at, ordinal)
ORDER BY e.ordinal
