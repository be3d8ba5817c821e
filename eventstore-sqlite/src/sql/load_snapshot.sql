-- A version that the stream does not have is damage.
SELECT n.version, n.data
FROM eventbus_streams s CROSS JOIN eventbus_snapshots n USING (stream_no)
WHERE s.aggregate_id = ?1 AND s.aggregate_type = ?2 AND s.tenant_id = ?3 AND s.kind = 0
    AND n.fold = ?4 AND n.version BETWEEN 1 AND s.version
