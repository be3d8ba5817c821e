-- When a lease was taken or renewed last, in milliseconds since 1970: a lease of the future is one that the clock was set
-- back from, and free.
ALTER TABLE eventbus_leases ADD COLUMN renewed_at INTEGER NOT NULL DEFAULT 0;
