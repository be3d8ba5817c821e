-- Saves the progress of a group: rows to write, rows to delete, and its checkpoint.
--
-- $1 group, $2 to $4 the rows to write, one array per column, each position once, $5 the positions of the rows to
-- delete, none of which is among $2, $6 and $7 name and position of the checkpoint, null if it stays
WITH saved AS (
    INSERT INTO {schema}.unfinished_deliveries (consumer_group, position, attempts, dead_since)
    SELECT $1::text, u.position, u.attempts, u.dead_since
    FROM unnest($2::bigint[], $3::text[], $4::timestamptz[]) u(position, attempts, dead_since)
    ORDER BY u.position
    ON CONFLICT (consumer_group, position) DO UPDATE SET attempts = excluded.attempts, dead_since = excluded.dead_since
),
finished AS (
    DELETE FROM {schema}.unfinished_deliveries d
    WHERE d.consumer_group = $1::text AND d.position = ANY ($5::bigint[])
)
INSERT INTO {schema}.checkpoints (name, position, updated_at)
SELECT $6::text, $7::bigint, now()
WHERE $6::text IS NOT NULL
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
