-- Returns the command with the key $2 of the tenant $1.
SELECT c.request, c.answer
FROM {schema}.commands c
WHERE c.tenant_id = $1 AND c.key = $2
