DELETE FROM eventbus_handler_rows WHERE handler = ?1 AND position = ?2
