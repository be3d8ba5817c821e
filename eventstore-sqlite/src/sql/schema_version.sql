SELECT coalesce(max(version), 0) FROM eventbus_migrations
