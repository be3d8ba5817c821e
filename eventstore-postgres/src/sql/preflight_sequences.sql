-- The sequences: the last number that each has drawn and the highest one stored, and the settings, on which for that of
-- positions a feed without gaps depends. And whether `events` is partitioned.
--
-- Null for the last number if this role may not read it. Where the right is missing, the function returns null on newer
-- servers, as for a sequence that has drawn none, and fails on older ones.
SELECT
    w.sequence,
    w.is_of_positions,
    CASE WHEN has_sequence_privilege(w.sequence, 'SELECT, USAGE')
        THEN coalesce(pg_sequence_last_value(w.sequence::regclass), 0) END AS drawn,
    coalesce(w.stored, 0) AS stored,
    s.seqcache     AS cache,
    s.seqincrement AS increment,
    s.seqcycle     AS cycle,
    (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = '{schema}.events'::regclass) AS is_partitioned
FROM (VALUES
    ('{schema}.events_position_seq', true, (SELECT max(e.position) FROM {schema}.events e)),
    ('{schema}.streams_stream_no_seq', false, (SELECT max(r.stream_no) FROM {schema}.streams r)),
    ('{schema}.tags_tag_no_seq', false, (SELECT max(t.tag_no) FROM {schema}.tags t))
) w (sequence, is_of_positions, stored)
JOIN pg_catalog.pg_sequence s ON s.seqrelid = w.sequence::regclass
