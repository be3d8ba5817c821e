-- Looks up the stream of each event of a page by its number, without a choice of another plan: `OFFSET 0`.
LEFT JOIN LATERAL (
    SELECT s.aggregate_type, s.aggregate_id, s.tenant_id
    FROM {schema}.streams s
    WHERE s.stream_no = e.stream_no
    OFFSET 0
) t ON true
