INSERT INTO eventbus_paused_groups (name) VALUES (?1) ON CONFLICT (name) DO NOTHING
