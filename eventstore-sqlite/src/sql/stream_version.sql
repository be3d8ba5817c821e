SELECT version FROM eventbus_events
WHERE aggregate_id = ?1 AND aggregate_type = ?2
ORDER BY version DESC LIMIT 1
