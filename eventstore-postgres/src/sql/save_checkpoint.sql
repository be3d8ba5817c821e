-- Says how far a reader of the feed has come, also when it went back.
INSERT INTO {schema}.checkpoints (name, position, updated_at)
VALUES ($1::text, $2::bigint, now())
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
