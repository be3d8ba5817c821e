DELETE FROM eventbus_unique_values WHERE stream_no = ?1 AND scope = ?2
