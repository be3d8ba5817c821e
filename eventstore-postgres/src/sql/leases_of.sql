-- The owners of roles now. A row for each, in order; null if its lease is free.
--
-- $1 roles
SELECT l.owner, l.epoch
FROM unnest($1::text[]) WITH ORDINALITY AS w (role, number)
LEFT JOIN {schema}.leases l
    ON l.role = w.role AND l.expires_at > clock_timestamp() AND l.renewed_at <= clock_timestamp()
ORDER BY w.number
