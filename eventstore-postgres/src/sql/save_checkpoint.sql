-- Saves the checkpoint of a reader of the feed, also a lower one.
INSERT INTO {schema}.checkpoints (name, position, updated_at)
VALUES ($1::text, $2::bigint, now())
ON CONFLICT (name) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
