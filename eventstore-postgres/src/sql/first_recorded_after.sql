-- The time at which the first event after position $1 was recorded.
SELECT e.recorded_at
FROM {schema}.events e
WHERE e.position > $1::bigint
ORDER BY e.position
LIMIT 1
