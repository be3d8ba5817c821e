-- Deletes the floor of a group of a bus.
DELETE FROM {schema}.floors f
WHERE f.destination = $1::text AND f.consumer_group = $2::text
