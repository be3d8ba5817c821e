-- When a lease was taken or renewed last: a lease of the future is one that the clock was set back from, and free.
ALTER TABLE {schema}.leases ADD COLUMN IF NOT EXISTS renewed_at timestamptz NOT NULL DEFAULT '-infinity';
