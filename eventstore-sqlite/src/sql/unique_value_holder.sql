SELECT stream_no FROM eventbus_unique_values WHERE value = ?1 AND scope = ?2 AND tenant_id = ?3
