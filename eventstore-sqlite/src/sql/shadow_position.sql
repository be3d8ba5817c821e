SELECT position FROM eventbus_shadow_checkpoints WHERE name = ?1
