-- A table as it was made, then its indexes, then its triggers; a rebuild makes them again elsewhere.
SELECT type, sql FROM eventbus_live.sqlite_schema
WHERE lower(tbl_name) = lower(?1) AND sql IS NOT NULL AND type IN ('table', 'index', 'trigger')
ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 ELSE 3 END, rowid
