-- Advances the checkpoint with the name of a lease while the lease has this epoch; no row: it has a newer one, or the
-- checkpoint is elsewhere. The row is true if the transaction appended, see `appended_in.sql`.
--
-- Invariant: this locks the lease's row, so that the next owner waits for this transaction before it gets the lease,
-- and then sees the new checkpoint.
--
-- $1 role, $2 epoch, $3 from, $4 to
WITH held AS MATERIALIZED (
    SELECT FROM {schema}.leases l
    WHERE l.role = $1::text AND l.epoch = $2::bigint
    FOR SHARE
)
UPDATE {schema}.checkpoints c
SET position = $4::bigint, updated_at = now()
FROM held
WHERE c.name = $1::text AND c.position = $3::bigint
RETURNING {appended_in}
