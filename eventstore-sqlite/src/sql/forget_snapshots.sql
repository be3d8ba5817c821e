DELETE FROM eventbus_snapshots WHERE stream_no > ?1 AND stream_no <= ?2 AND fold = ?3
