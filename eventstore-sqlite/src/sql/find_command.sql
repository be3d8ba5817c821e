SELECT request, answer FROM eventbus_commands WHERE key = ?1 AND tenant_id = ?2
