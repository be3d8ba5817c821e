-- Takes a lease from any owner.
--
-- $1 role, $2 owner, $3 microseconds
INSERT INTO {schema}.leases AS l (role, owner, epoch, renewed_at, expires_at)
VALUES ($1::text, $2::text, 1, clock_timestamp(), clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (role) DO UPDATE SET
    owner = excluded.owner,
    epoch = l.epoch + 1,
    renewed_at = clock_timestamp(),
    expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
RETURNING l.epoch
