-- `advance.sql` from position 0, which is also that of a checkpoint that was never saved and has no row.
--
-- $1 role, $2 epoch, $3 from, which is 0, $4 to
WITH held AS MATERIALIZED (
    SELECT FROM {schema}.leases l
    WHERE l.role = $1::text AND l.epoch = $2::bigint
    FOR SHARE
)
INSERT INTO {schema}.checkpoints AS c (name, position, updated_at)
SELECT $1::text, $4::bigint, now() FROM held
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
WHERE c.position = $3::bigint
RETURNING {appended_in}
