-- The number of dead letters of all handlers, up to $1.
SELECT count(*)
FROM (SELECT FROM {schema}.handler_rows r WHERE r.dead_since IS NOT NULL LIMIT $1::bigint) d
