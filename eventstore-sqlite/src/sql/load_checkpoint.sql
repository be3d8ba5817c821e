SELECT position FROM eventbus_checkpoints WHERE name = ?1
