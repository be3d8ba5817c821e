-- The number of events that match a filter, after position $1, up to position $2.
--
-- $3 aggregate types, $4 event types, $5 tenant, $6 slots; `{wanted}` has those that are given
SELECT count(*)
FROM {schema}.events e
WHERE e.position > $1::bigint AND e.position <= $2::bigint
    AND {wanted}
