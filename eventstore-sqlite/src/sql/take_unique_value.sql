INSERT INTO eventbus_unique_values (value, scope, tenant_id, stream_no) VALUES (?1, ?2, ?3, ?4)
