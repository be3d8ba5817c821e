DELETE FROM eventbus_commands WHERE (key, tenant_id) IN (
    SELECT key, tenant_id FROM eventbus_commands
    WHERE handled_at <= CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) - ?1
    ORDER BY handled_at LIMIT ?2
)
