INSERT INTO eventbus_handler_rows (handler, position, shard, attempts, dead_since, is_held)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (handler, position) DO UPDATE
SET shard = excluded.shard, attempts = excluded.attempts, dead_since = excluded.dead_since, is_held = excluded.is_held
