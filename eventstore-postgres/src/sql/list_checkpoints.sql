-- The checkpoints whose names begin with $1, after $2; at most $3.
SELECT c.name, c.position, c.updated_at
FROM {schema}.checkpoints c
WHERE c.name >= $1::text AND c.name > $2::text AND starts_with(c.name, $1::text)
ORDER BY c.name
LIMIT $3::bigint
