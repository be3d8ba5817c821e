-- The streams after the key ?1 (aggregate id), ?2 (aggregate type), ?3 (tenant), at most ?4, by their unique index.
SELECT aggregate_type, aggregate_id, tenant_id, version, recorded_at FROM eventbus_streams
WHERE (aggregate_id, aggregate_type, tenant_id) > (?1, ?2, ?3) AND kind = 0
ORDER BY aggregate_id, aggregate_type, tenant_id
LIMIT ?4
