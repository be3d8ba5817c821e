SELECT note FROM eventbus_notes WHERE name = ?1
