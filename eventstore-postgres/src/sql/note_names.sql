-- The names of notes that begin with $1, after $2; at most $3.
SELECT n.name
FROM {schema}.notes n
WHERE n.name >= $1::text AND n.name > $2::text AND starts_with(n.name, $1::text)
ORDER BY n.name
LIMIT $3::bigint
