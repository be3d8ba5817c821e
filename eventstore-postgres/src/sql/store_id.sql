-- What tells this store from all others.
SELECT s.id
FROM {schema}.store s
