INSERT INTO eventbus_notes (name, note) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET note = excluded.note
