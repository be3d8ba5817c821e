DELETE FROM eventbus_shadows WHERE name = ?1 AND file = ?2
