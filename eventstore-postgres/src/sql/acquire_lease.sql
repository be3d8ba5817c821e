-- Acquires a lease that is free, expired, renewed in the future (the clock was set back), or held by the same owner; no
-- row: a different owner holds it.
--
-- The statement locks the row before it compares times, and reads the clock after waiting for the lock.
--
-- $1 role, $2 owner, $3 microseconds
INSERT INTO {schema}.leases AS l (role, owner, epoch, renewed_at, expires_at)
VALUES ($1::text, $2::text, 1, clock_timestamp(), clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (role) DO UPDATE SET
    owner = excluded.owner,
    epoch = l.epoch + 1,
    renewed_at = clock_timestamp(),
    expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp() OR l.renewed_at > clock_timestamp()
RETURNING l.epoch
