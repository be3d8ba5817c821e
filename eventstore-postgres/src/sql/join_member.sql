-- Adds a live process, and forgets some of those that ended long ago without leaving.
--
-- $1 name, $2 JSON: its handlers
WITH ended AS (
    SELECT m.name
    FROM {schema}.handler_members m
    WHERE m.seen_at < clock_timestamp() - interval '1 day' AND m.name <> $1::text
    LIMIT 100
    FOR UPDATE OF m SKIP LOCKED
), forgotten AS (
    DELETE FROM {schema}.handler_members m USING ended e WHERE m.name = e.name
)
INSERT INTO {schema}.handler_members (name, handlers, seen_at)
VALUES ($1::text, $2::text, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET handlers = excluded.handlers, seen_at = clock_timestamp()
