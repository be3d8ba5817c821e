INSERT INTO eventbus_shadows (name, file) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET file = excluded.file, has_served = 0
