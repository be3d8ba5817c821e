-- The newest migration of a file of an older layout.
SELECT format('its newest migration is %d `%s`', version, name) FROM eventbus_migrations
ORDER BY version DESC LIMIT 1
