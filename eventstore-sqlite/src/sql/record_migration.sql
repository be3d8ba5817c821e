INSERT INTO eventbus_migrations (version, name) VALUES (?1, ?2)
