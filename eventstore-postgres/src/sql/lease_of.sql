-- The owner of a role now.
--
-- $1 role
SELECT owner, epoch FROM {schema}.leases
WHERE role = $1::text AND expires_at > clock_timestamp() AND renewed_at <= clock_timestamp()
