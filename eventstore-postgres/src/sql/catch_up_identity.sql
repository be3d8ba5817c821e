-- Moves the sequence of an identity column up to the highest number in its table.
--
-- $1 the table's name with its schema, quoted, $2 the column's name
SELECT setval(s.sequence, r.highest)
FROM (SELECT pg_get_serial_sequence($1::text, $2::text)::regclass AS sequence) s,
    (SELECT max({column})::bigint AS highest FROM {live}) r
WHERE r.highest > coalesce(pg_sequence_last_value(s.sequence), 0)
