-- The newest migration of a database of an older layout.
SELECT format('its newest migration is %s `%s`', m.version, m.name)
FROM {schema}.migrations m
ORDER BY m.version DESC
LIMIT 1
