INSERT INTO eventbus_handler_members (name, lock_id, handlers) VALUES (?1, ?2, ?3)
ON CONFLICT (name) DO UPDATE SET lock_id = excluded.lock_id, handlers = excluded.handlers
