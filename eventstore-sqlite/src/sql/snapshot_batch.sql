-- The last stream of the next ?2 snapshots behind stream ?1, of all folds; null if there are none.
SELECT max(stream_no) FROM (
    SELECT stream_no FROM eventbus_snapshots WHERE stream_no > ?1 ORDER BY stream_no LIMIT ?2)
