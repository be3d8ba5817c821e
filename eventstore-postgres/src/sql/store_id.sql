-- The id of this store.
SELECT s.id
FROM {schema}.store s
