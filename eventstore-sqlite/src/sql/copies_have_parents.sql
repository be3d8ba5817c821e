-- Returns 1 if each table that a copy refers to by a foreign key has a copy.
SELECT NOT EXISTS (
    SELECT 1 FROM main.sqlite_schema t, pragma_foreign_key_list(t.name, 'main') k
    WHERE t.type = 'table' AND NOT EXISTS (
        SELECT 1 FROM main.sqlite_schema p WHERE p.type = 'table' AND lower(p.name) = lower(k."table")
    )
)
