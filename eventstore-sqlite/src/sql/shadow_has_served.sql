UPDATE eventbus_shadows SET has_served = 1 WHERE name = ?1 AND file = ?2
