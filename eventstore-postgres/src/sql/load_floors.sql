-- The floors of a bus.
SELECT f.consumer_group, f.position
FROM {schema}.floors f
WHERE f.destination = $1::text
ORDER BY f.consumer_group
