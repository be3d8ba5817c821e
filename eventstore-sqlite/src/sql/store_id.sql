SELECT id FROM eventbus_store
