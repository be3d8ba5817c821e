-- A table outside of a shadow that would lose or change rows if those of a live table are replaced; no row if none.
--
-- $1 the live tables
SELECT c.confrelid::regclass::text, c.conrelid::regclass::text
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f'
  AND c.confrelid = ANY ($1::text[]::regclass[]) AND c.conrelid <> ALL ($1::text[]::regclass[])
  AND c.confdeltype IN ('c', 'n', 'd')
ORDER BY 1, 2
LIMIT 1
