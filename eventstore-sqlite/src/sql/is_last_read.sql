-- Whether the store has the event ?2 at position ?1, or had it: an event that an operator deleted leaves a gap, while an
-- older copy ends before it or has a different one there. No row if the feed ends before.
SELECT position > ?1 OR event_id = ?2 FROM eventbus_events WHERE position >= ?1 AND ?1 > 0 ORDER BY position LIMIT 1
