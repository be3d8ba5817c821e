-- Keeps a snapshot of a version that its stream has. Replaces one of a lower version, and one of a version that the
-- stream does not have.
--
-- $1 to $3 the stream, $4 fold, $5 version, $6 data
--
-- The row of the stream is not locked, so this waits for no append; nor for the disk, as a lost snapshot is no loss. A
-- concurrent saver may have seen a later version of the stream: damaged is only what this statement's own view of the
-- database shows to be.
WITH relaxed AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true) AS synchronous_commit
)
INSERT INTO {schema}.snapshots AS kept (stream_no, version, taken_at, fold, data)
SELECT s.stream_no, $5::bigint, now(), $4::text, $6::bytea
FROM {schema}.streams s, relaxed r
WHERE {is_stream} AND s.version >= $5::bigint AND r.synchronous_commit = 'off'
ON CONFLICT (stream_no, fold) DO UPDATE
SET version = excluded.version, taken_at = excluded.taken_at, data = excluded.data
WHERE kept.version < excluded.version
    OR kept.version = (
        SELECT n.version
        FROM {schema}.snapshots n
        JOIN {schema}.streams t ON t.stream_no = n.stream_no
        WHERE n.stream_no = kept.stream_no AND n.fold = kept.fold AND n.version > t.version)
RETURNING kept.stream_no
