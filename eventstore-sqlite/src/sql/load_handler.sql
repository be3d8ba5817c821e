SELECT note FROM eventbus_handlers WHERE name = ?1
