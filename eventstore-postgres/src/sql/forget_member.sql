-- Removes a process that ends, and tells the others, which acquire its shards.
--
-- $1 the member
WITH forgotten AS (DELETE FROM {schema}.handler_members m WHERE m.name = $1::text)
SELECT pg_notify('{channel}', 'left')
