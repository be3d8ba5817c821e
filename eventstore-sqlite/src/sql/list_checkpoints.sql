-- The checkpoints whose names begin with ?1, after ?2; at most ?3.
SELECT name, position, updated_at FROM eventbus_checkpoints
WHERE name >= ?1 AND name > ?2 AND substr(name, 1, length(?1)) = ?1
ORDER BY name
LIMIT ?3
