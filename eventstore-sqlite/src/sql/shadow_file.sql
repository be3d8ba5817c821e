SELECT file, has_served FROM eventbus_shadows WHERE name = ?1
