DELETE FROM eventbus_checkpoints WHERE name = ?1
