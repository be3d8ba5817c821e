-- Notes that a handler handles an event; no row: that was committed before. Waits for whoever notes the same.
INSERT INTO {schema}.deliveries (handler, event_id)
VALUES ($1::text, $2::uuid)
ON CONFLICT DO NOTHING
RETURNING event_id
