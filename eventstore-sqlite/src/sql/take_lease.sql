-- Takes the lease of a live owner too if ?4.
INSERT INTO eventbus_leases (role, owner, epoch, renewed_at, expires_at)
SELECT ?1, ?2, 1, now, now + ?3
FROM (SELECT CAST(round(unixepoch('subsec') * 1e6) AS INTEGER) AS now)
WHERE true
ON CONFLICT (role) DO UPDATE
SET owner = excluded.owner, epoch = epoch + 1, renewed_at = excluded.renewed_at, expires_at = excluded.expires_at
WHERE ?4 OR owner = excluded.owner OR excluded.renewed_at NOT BETWEEN renewed_at AND expires_at - 1
RETURNING epoch
