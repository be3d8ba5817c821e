DELETE FROM eventbus_notes WHERE name = ?1
