-- Saves the note beside a checkpoint.
INSERT INTO {schema}.notes (name, note)
VALUES ($1::text, $2::text)
ON CONFLICT (name) DO UPDATE SET note = excluded.note
