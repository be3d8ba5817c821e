-- The leases whose roles begin with $1, after $2, and whether they are held; at most $3.
SELECT l.role, l.owner, l.epoch, l.expires_at,
    l.expires_at > clock_timestamp() AND l.renewed_at <= clock_timestamp()
FROM {schema}.leases l
WHERE l.role >= $1::text AND l.role > $2::text AND starts_with(l.role, $1::text)
ORDER BY l.role
LIMIT $3::bigint
