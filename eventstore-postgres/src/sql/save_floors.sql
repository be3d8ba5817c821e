-- Overwrites floors of a bus, also by lower ones; in the order of groups, so that concurrent statements never deadlock.
--
-- $1 destination, $2 groups, each once, $3 their positions
INSERT INTO {schema}.floors (destination, "group", position)
SELECT $1::text, f."group", f.position
FROM unnest($2::text[], $3::bigint[]) f("group", position)
ORDER BY f."group" COLLATE "C"
ON CONFLICT (destination, "group") DO UPDATE SET position = excluded.position
