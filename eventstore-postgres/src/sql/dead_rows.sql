-- The dead letters of all handlers after the one of time $1, position $2 and handler $3, from the first if these are
-- null; at most $4.
SELECT r.handler, r.position, r.attempts, r.dead_since, r.is_held
FROM {schema}.handler_rows r
WHERE r.dead_since IS NOT NULL
  -- without OR, so that a page begins in the index where the former one ended
  AND (r.dead_since, r.position, r.handler)
    > (coalesce($1::timestamptz, '-infinity'), coalesce($2::bigint, 0), coalesce($3::text, '') COLLATE "C")
ORDER BY r.dead_since, r.position, r.handler
LIMIT $4::bigint
