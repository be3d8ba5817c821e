SELECT name, lock_id FROM eventbus_handler_members
