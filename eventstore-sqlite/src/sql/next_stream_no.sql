SELECT coalesce(max(stream_no), 0) + 1 FROM eventbus_streams
