-- The migrations of the file, oldest first.
SELECT version, name, kind FROM eventbus_migrations ORDER BY version
