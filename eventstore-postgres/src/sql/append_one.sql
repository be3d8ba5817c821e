-- The event of an append of one, a parameter per column: it costs the server less than arrays with one element.
(
    SELECT 1 AS ordinal, $4::uuid AS event_id, $5::text AS event_type, $6::integer AS schema_version,
        $7::timestamptz AS occurred_at, $8::text AS payload, $9::uuid AS correlation_id, $10::uuid AS causation_id,
        $11::text AS actor_id, $12::text AS attributes, $13::timestamptz AS original_recorded_at
) e
