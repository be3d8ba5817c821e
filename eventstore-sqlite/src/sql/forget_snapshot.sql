DELETE FROM eventbus_snapshots
WHERE fold = ?4 AND stream_no = (
    SELECT stream_no FROM eventbus_streams
    WHERE aggregate_id = ?1 AND aggregate_type = ?2 AND tenant_id = ?3 AND kind = 0)
