DELETE FROM eventbus_handler_rows WHERE handler = ?1
