-- Dead letters after the one with time ?1, position ?2 and group ?3, at most ?4.
SELECT consumer_group, position, attempts, dead_since FROM eventbus_unfinished_deliveries
WHERE dead_since IS NOT NULL AND (dead_since, position, consumer_group) > (?1, ?2, ?3)
ORDER BY dead_since, position, consumer_group LIMIT ?4
