-- Replaces a snapshot of a lower version, and one of a version that the stream does not have.
INSERT INTO eventbus_snapshots AS kept (stream_no, fold, version, taken_at, data)
SELECT stream_no, ?4, ?5, CAST(round(unixepoch('subsec') * 1e6) AS INTEGER), ?6 FROM eventbus_streams
WHERE aggregate_id = ?1 AND aggregate_type = ?2 AND tenant_id = ?3 AND kind = 0 AND version >= ?5
ON CONFLICT (stream_no, fold) DO UPDATE
SET version = excluded.version, taken_at = excluded.taken_at, data = excluded.data
WHERE kept.version < excluded.version
    OR kept.version > (SELECT s.version FROM eventbus_streams s WHERE s.stream_no = kept.stream_no)
