-- Returns 1 if table ?1 exists, with column ?2 unless that is NULL.
SELECT EXISTS (
    SELECT 1 FROM main.sqlite_schema t, pragma_table_xinfo(t.name, 'main') c
    WHERE t.type = 'table' AND lower(t.name) = lower(?1) AND (?2 IS NULL OR lower(c.name) = lower(?2))
)
