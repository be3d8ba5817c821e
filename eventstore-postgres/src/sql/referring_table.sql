-- A table outside of a shadow that would lose or change rows if those of a live table are replaced, or that would make the
-- server refuse it; no row if none. A key with `NO ACTION` that can be deferred is checked when the rows are there again.
-- A partition has the keys of its table.
--
-- $1 the live tables
SELECT c.confrelid::regclass::text, c.conrelid::regclass::text
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f'
  AND c.confrelid = ANY ($1::text[]::regclass[]) AND c.conrelid <> ALL ($1::text[]::regclass[])
  AND c.conparentid = 0
  AND NOT (c.confdeltype = 'a' AND c.condeferrable)
ORDER BY 1, 2
LIMIT 1
