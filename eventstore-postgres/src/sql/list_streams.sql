-- The streams after the key $1 (aggregate id), $2 (aggregate type), $3 (tenant), at most $4, by their unique index.
--
-- A stream that `append_streams.sql` has only checked may have a row of version 0: it has no events.
SELECT s.aggregate_type, s.aggregate_id, s.tenant_id, s.version, s.recorded_at
FROM {schema}.streams s
WHERE (s.aggregate_id, s.aggregate_type, s.tenant_id) > ($1::text COLLATE "C", $2::text COLLATE "C", $3::uuid)
    AND s.kind = 0 AND s.version <> 0
ORDER BY s.aggregate_id, s.aggregate_type, s.tenant_id
LIMIT $4::bigint
