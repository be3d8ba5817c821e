-- Moves the checkpoint that is named like a lease, while the lease is still its owner's; no row: it is not, or the
-- checkpoint is elsewhere. A row says whether the transaction appended, see `appended_in.sql`.
--
-- Keep: the lease's row is locked, so that whoever takes it over waits for this transaction, and then sees how far it came.
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
