-- ?4: whoever has it
INSERT INTO eventbus_leases (role, owner, epoch, ends_at)
VALUES (?1, ?2, 1, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3)
ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, epoch = epoch + 1, ends_at = excluded.ends_at
WHERE ?4 OR owner = excluded.owner OR ends_at <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
RETURNING epoch
