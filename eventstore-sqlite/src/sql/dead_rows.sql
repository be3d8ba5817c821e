-- Dead letters after the one with time ?1, position ?2 and handler ?3, at most ?4.
SELECT handler, position, attempts, dead_since, is_held FROM eventbus_handler_rows
WHERE dead_since IS NOT NULL AND (dead_since, position, handler) > (?1, ?2, ?3)
ORDER BY dead_since, position, handler LIMIT ?4
