-- The names that begin with ?1, after ?2; at most ?3.
SELECT name FROM eventbus_notes
WHERE name >= ?1 AND name > ?2 AND substr(name, 1, length(?1)) = ?1
ORDER BY name
LIMIT ?3
