-- Whether there is table ?1, and column ?2 in it unless that is NULL.
SELECT EXISTS (
    SELECT 1 FROM main.sqlite_schema t, pragma_table_xinfo(t.name, 'main') c
    WHERE t.type = 'table' AND lower(t.name) = lower(?1) AND (?2 IS NULL OR lower(c.name) = lower(?2))
)
