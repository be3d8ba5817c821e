SELECT s.aggregate_type, s.aggregate_id, s.tenant_id
FROM eventbus_unique_values v
JOIN eventbus_streams s ON s.stream_no = v.stream_no
WHERE v.value = ?1 AND v.scope = ?2 AND v.tenant_id = ?3
