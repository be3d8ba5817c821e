INSERT INTO eventbus_migrations (version, name, kind) VALUES (?1, ?2, ?3)
