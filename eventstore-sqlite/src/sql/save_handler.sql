INSERT INTO eventbus_handlers (name, note) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET note = excluded.note
