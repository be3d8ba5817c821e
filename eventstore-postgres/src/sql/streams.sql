-- The streams with the numbers $1.
SELECT s.stream_no, s.aggregate_type, s.aggregate_id, s.tenant_id
FROM {schema}.streams s
WHERE s.stream_no = ANY ($1::bigint[])
