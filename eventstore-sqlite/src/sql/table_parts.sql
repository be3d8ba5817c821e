-- The statements that made a table, its indexes and its triggers, in this order; a rebuild runs them for the copies.
SELECT type, sql FROM eventbus_live.sqlite_schema
WHERE lower(tbl_name) = lower(?1) AND sql IS NOT NULL AND type IN ('table', 'index', 'trigger')
ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 ELSE 3 END, rowid
