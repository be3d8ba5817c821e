-- The handlers, with the numbers of their rows that wait and that are dead letters.
SELECT h.name, h.note, count(*) FILTER (WHERE r.position IS NOT NULL AND r.dead_since IS NULL), count(r.dead_since)
FROM eventbus_handlers h LEFT JOIN eventbus_handler_rows r ON r.handler = h.name
GROUP BY h.name ORDER BY h.name
