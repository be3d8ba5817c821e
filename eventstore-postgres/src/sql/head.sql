-- The position of the last event that is safe to read; null if there is none. Nothing appears at or before it any more.
--
-- Every append holds, while it is open, a shared advisory lock on the last position drawn before its own. So below the
-- lowest of these locks everything is committed or will never be.
--
-- Keep: the answer is the position of an event, not of the bound. A position that was drawn and rolled back may be drawn
-- again after a crash, for no commit made the sequence durable; one at or before a committed event never is.
--
-- Keep: the sequence is read first, the locks second (`OFFSET 0` and the reference to `drawn` see to it), and the page
-- that is read up to the answer is another statement, with a newer snapshot. In one statement the page may miss an
-- append that commits between its snapshot and the look at the locks.
SELECT max(e.position)
FROM {schema}.events e
WHERE e.position <= (
    SELECT least(r.drawn, (
        SELECT min(((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 44) - 1))
        FROM pg_catalog.pg_locks l
        WHERE r.drawn IS NOT NULL
          AND l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock'
          AND (l.classid::bigint >> 12) = {namespace}
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
    ))
    FROM (SELECT {drawn} AS drawn OFFSET 0) r
)
