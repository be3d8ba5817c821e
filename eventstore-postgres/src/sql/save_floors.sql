-- Overwrites floors of a bus, also by lower ones; in the order of groups, so that concurrent statements never deadlock.
--
-- $1 destination, $2 groups, each once, $3 their positions
INSERT INTO {schema}.floors (destination, consumer_group, position)
SELECT $1::text, f.consumer_group, f.position
FROM unnest($2::text[], $3::bigint[]) f(consumer_group, position)
ORDER BY f.consumer_group COLLATE "C"
ON CONFLICT (destination, consumer_group) DO UPDATE SET position = excluded.position
