-- The settings of the sequence of positions on which a feed without gaps depends.
SELECT
    s.seqcache     AS cache,
    s.seqincrement AS increment,
    s.seqcycle     AS cycle,
    {drawn}        AS drawn,
    coalesce((SELECT max(e.position) FROM {schema}.events e), 0) AS stored
FROM pg_catalog.pg_sequence s
WHERE s.seqrelid = '{schema}.events_position_seq'::regclass
