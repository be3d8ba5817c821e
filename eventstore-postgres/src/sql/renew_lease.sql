-- Renews a lease from now on, or ends it with 0 microseconds; no row: the lease has a newer epoch, or a different owner
-- has the same epoch, as a server that took over lacked the former lease.
--
-- $1 role, $2 epoch, $3 microseconds, $4 owner
UPDATE {schema}.leases l
SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
WHERE l.role = $1::text AND l.epoch = $2::bigint AND l.owner = $4::text
RETURNING l.epoch
