-- Removes what was noted.
DELETE FROM {schema}.notes n
WHERE n.name = $1::text
