-- Takes the lease of a live owner too if ?4.
INSERT INTO eventbus_leases (role, owner, epoch, renewed_at, ends_at)
VALUES (?1, ?2, 1, CAST(unixepoch('subsec') * 1000 AS INTEGER), CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3)
ON CONFLICT (role) DO UPDATE
SET owner = excluded.owner, epoch = epoch + 1, renewed_at = excluded.renewed_at, ends_at = excluded.ends_at
WHERE ?4 OR owner = excluded.owner OR excluded.renewed_at NOT BETWEEN renewed_at AND ends_at - 1
RETURNING epoch
