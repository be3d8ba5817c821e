-- The settings of the sequence of positions on which a feed without gaps depends, and whether `events` is partitioned.
SELECT
    s.seqcache     AS cache,
    s.seqincrement AS increment,
    s.seqcycle     AS cycle,
    {drawn}        AS drawn,
    coalesce((SELECT max(e.position) FROM {schema}.events e), 0) AS stored,
    (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = '{schema}.events'::regclass) AS is_partitioned
FROM pg_catalog.pg_sequence s
WHERE s.seqrelid = '{schema}.events_position_seq'::regclass
