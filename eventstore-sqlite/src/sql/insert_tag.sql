INSERT INTO eventbus_tags (tag, tenant_id, counts) VALUES (?1, ?2, ?3)
