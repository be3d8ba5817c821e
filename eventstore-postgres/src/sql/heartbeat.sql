-- What a process learns of its handlers, in rows of four kinds: `held` shards with their changes, `free` shards, live
-- `member`s, `paused` groups. `{held}` reads the shards of $4 to $6 that the process still owns.
--
-- $1 member, $2 handlers whose free shards are asked for, $3 microseconds after which another member is dead, $4 to $6
-- the shards that the process knows as its own: handlers, numbers, epochs
{planned_once}WITH {held}
SELECT 'held', h.handler, h.shard, h.changes
FROM held h
UNION ALL
SELECT 'free', s.handler, s.shard, 0
FROM {schema}.handler_shards s
WHERE s.handler = ANY ($2::text[]) AND (s.owner = $1::text OR {is_free_shard})
    AND (s.handler, s.shard) NOT IN (SELECT h.handler, h.shard FROM held h)
UNION ALL
SELECT 'member', m.name, NULL, NULL
FROM {schema}.handler_members m
WHERE m.name = $1::text
    OR (m.seen_at > clock_timestamp() - $3::bigint * interval '1 microsecond' AND m.seen_at <= clock_timestamp())
UNION ALL
SELECT 'paused', p.name, NULL, NULL
FROM {schema}.paused_groups p
