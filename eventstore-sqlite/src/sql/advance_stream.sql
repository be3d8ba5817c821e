UPDATE eventbus_streams SET version = ?2, recorded_at = ?3 WHERE stream_no = ?1
