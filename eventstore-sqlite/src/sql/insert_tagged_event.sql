INSERT INTO eventbus_tagged_events (tag_no, position) VALUES (?1, ?2)
