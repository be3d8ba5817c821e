-- The sequences: the last number that each has drawn and the highest one stored, and the settings, on which for that of
-- positions a feed without gaps depends. And whether `events` is partitioned.
SELECT
    w.sequence,
    w.is_of_positions,
    coalesce(w.drawn, 0)  AS drawn,
    coalesce(w.stored, 0) AS stored,
    s.seqcache     AS cache,
    s.seqincrement AS increment,
    s.seqcycle     AS cycle,
    (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = '{schema}.events'::regclass) AS is_partitioned
FROM (VALUES
    ('{schema}.events_position_seq', true, {drawn}, (SELECT max(e.position) FROM {schema}.events e)),
    ('{schema}.streams_stream_no_seq', false, pg_sequence_last_value('{schema}.streams_stream_no_seq'),
        (SELECT max(r.stream_no) FROM {schema}.streams r)),
    ('{schema}.tags_tag_no_seq', false, pg_sequence_last_value('{schema}.tags_tag_no_seq'),
        (SELECT max(t.tag_no) FROM {schema}.tags t))
) w (sequence, is_of_positions, drawn, stored)
JOIN pg_catalog.pg_sequence s ON s.seqrelid = w.sequence::regclass
