DELETE FROM eventbus_handler_members WHERE name = ?1
