-- The columns of the table of migrations; none if there is no such table.
SELECT name FROM pragma_table_info('eventbus_migrations', 'main') ORDER BY cid
