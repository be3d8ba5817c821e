-- Returns true if the delivery is noted: $1 the handler, $2 the event id, $3 to $5 the stream of the event: id, type,
-- tenant.
SELECT EXISTS (
    SELECT FROM {schema}.deliveries d
    WHERE d.handler = $1 AND d.event_id = $2 AND d.aggregate_id = $3 AND d.aggregate_type = $4 AND d.tenant_id = $5)
