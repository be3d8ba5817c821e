SELECT count(*) FROM eventbus_events
WHERE position > ?1 AND position <= ?2
  AND (?3 IS NULL OR +aggregate_type IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR +event_type IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR +tenant_id = ?5)
