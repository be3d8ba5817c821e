-- Renews leases from now on. A row for each, in order: true if it was renewed; false if it has a newer epoch or a
-- different owner, see `renew_lease.sql`, or if a transaction holds its row. So the statement never waits, for the
-- transaction of one, with the rows of others locked.
--
-- $1 roles, $2 epochs, $3 microseconds, $4 owners
WITH wanted AS MATERIALIZED (
    SELECT w.role, w.epoch, w.owner, w.number
    FROM unnest($1::text[], $2::bigint[], $4::text[]) WITH ORDINALITY AS w (role, epoch, owner, number)
), free AS MATERIALIZED (
    SELECT l.role, l.epoch
    FROM {schema}.leases l
    JOIN wanted w ON l.role = w.role AND l.epoch = w.epoch AND l.owner = w.owner
    FOR NO KEY UPDATE OF l SKIP LOCKED
), renewed AS (
    UPDATE {schema}.leases l
    SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
    FROM free f
    WHERE l.role = f.role AND l.epoch = f.epoch
    RETURNING l.role, l.epoch, l.owner
)
SELECT r.role IS NOT NULL
FROM wanted w
LEFT JOIN renewed r ON r.role = w.role AND r.epoch = w.epoch AND r.owner = w.owner
ORDER BY w.number
