SELECT recorded_at FROM eventbus_events
WHERE position > ?1
ORDER BY position LIMIT 1
