-- Records that a handler handles an event; no row: a transaction committed the same delivery before. Waits for a
-- transaction that records the same delivery.
INSERT INTO {schema}.deliveries (handler, event_id)
VALUES ($1::text, $2::uuid)
ON CONFLICT DO NOTHING
RETURNING event_id
