SELECT version FROM eventbus_events
WHERE stream_no = ?1 AND version >= ?2 AND version <= ?3
ORDER BY version
