DELETE FROM eventbus_paused_groups WHERE name = ?1
