-- The counts of the tags of a boundary, and the first page of its events with their streams: {page}. One row if there are no
-- events; only the first row has the counts. Both come from one snapshot, so that no event is counted that is not read.
--
-- The parameters are those of `read_tagged.sql`; $12 the tags of all sets, each once; $13 the names that are counted.
{planned_once}
{driving_tags}
SELECT p.*, window_end.reach, s.aggregate_type, s.aggregate_id, s.tenant_id,
    CASE WHEN row_number() OVER (ORDER BY p.position) = 1 THEN ARRAY(
{counts}
    ) END AS counts
FROM window_end
LEFT JOIN LATERAL (
{page}
) p ON true
LEFT JOIN LATERAL (
    SELECT w.aggregate_type, w.aggregate_id, w.tenant_id
    FROM {schema}.streams w
    WHERE w.stream_no = p.stream_no
    LIMIT 1
) s ON true
ORDER BY p.position
