-- The next events that have the tag ?1, and whether each also has the tags ?2, a JSON array of their numbers, and one of
-- the types ?5 and ?6, JSON arrays, and of the slots ?8; NULL matches all. An event that was removed has none.
SELECT t.position,
    NOT EXISTS (
        SELECT 1 FROM json_each(?2) wanted
        WHERE NOT EXISTS (
            SELECT 1 FROM eventbus_tagged_events other WHERE other.tag_no = wanted.value AND other.position = t.position
        )
    ) AND EXISTS (
        SELECT 1 FROM eventbus_events e LEFT JOIN eventbus_streams s USING (stream_no)
        WHERE e.position = t.position
          AND (?5 IS NULL OR +s.aggregate_type IN (SELECT value FROM json_each(?5)))
          AND (?6 IS NULL OR +e.event_type IN (SELECT value FROM json_each(?6)))
          AND (?8 IS NULL OR eventbus_has_slot(?8, s.aggregate_type, s.aggregate_id, s.tenant_id))
    )
FROM eventbus_tagged_events t
WHERE t.tag_no = ?1 AND t.position > ?3 AND t.position <= ?4
ORDER BY t.position LIMIT ?7
