SELECT file FROM eventbus_shadows WHERE name = ?1
