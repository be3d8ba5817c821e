-- Locks the bound, the last position drawn: until the transaction ends, readers of the feed stay at or before it.
pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | {drawn})
