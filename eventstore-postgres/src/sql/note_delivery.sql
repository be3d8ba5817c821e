-- Records that a handler handles an event; no row: a transaction committed the same delivery before. Waits for a
-- transaction that records the same delivery.
INSERT INTO {schema}.deliveries (handler, event_id, aggregate_id, aggregate_type, tenant_id)
VALUES ($1::text, $2::uuid, $3::text, $4::text, $5::uuid)
ON CONFLICT DO NOTHING
RETURNING event_id
