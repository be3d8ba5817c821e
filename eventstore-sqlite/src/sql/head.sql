SELECT coalesce(max(position), 0) FROM eventbus_events
