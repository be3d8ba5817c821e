-- The position of the last event that is safe to read; null if there is none. No event will appear at or before it. And
-- whether appends are open, which may keep readers from events behind that position. And whether the server is a standby,
-- to which a pooler may lead after a failover: it does not have the locks.
--
-- Every append holds, while it is open, a shared advisory lock on the last position drawn before its own; several of one
-- transaction hold that of the first. So each position at or below the lowest of these locks has a committed event, or
-- never will.
--
-- Invariant: the answer is the position of an event, not the bound. After a crash the sequence may draw a position
-- again whose transaction was rolled back, since no commit made it durable; it never draws one at or before a committed
-- event.
--
-- Invariant: the statement reads the sequence first and the locks second (`OFFSET 0` and the reference to `drawn`
-- ensure it), and a second statement, with a newer snapshot, reads the page up to the answer. In one statement the page
-- may miss an append that commits between its snapshot and its read of the locks.
SELECT (SELECT max(e.position) FROM {schema}.events e WHERE e.position <= least(b.drawn, b.lowest)),
    b.lowest IS NOT NULL,
    pg_is_in_recovery()
FROM (
    SELECT r.drawn, (
        SELECT min(((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 44) - 1))
        FROM pg_catalog.pg_locks l
        WHERE r.drawn IS NOT NULL
          AND l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock'
          AND (l.classid::bigint >> 12) = {namespace}
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
    ) AS lowest
    FROM (SELECT {drawn} AS drawn OFFSET 0) r
    OFFSET 0
) b
