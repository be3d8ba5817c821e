-- Adds the tag $5 to the event at version $4 of a stream, and counts it; no row if there is no such event.
--
-- $1 aggregate id, $2 aggregate type, $3 tenant, $6 the most tags of an event.
--
-- The tag counts the event by its type; the tags that the event has already count it under the empty name, as it may
-- now belong to a boundary of several tags.
--
-- Invariant: the statement locks the event, then the tags that exist, in their order; then it inserts the tag if it is new;
-- then it updates the tags and the event: the order of `append_streams.sql`. A repeated append that meets the key of the
-- event waits if the event was updated, but not if it is only locked; so this statement waits for the rows of the tags,
-- which such an append may hold, while it has updated nothing.
--
-- If another statement inserts the tag meanwhile, `fine` fails this one by a division by zero, and it is sent again.
WITH patience AS MATERIALIZED (
    SELECT {patience}
),
held AS MATERIALIZED (
    SELECT e.position, e.event_type, coalesce(e.tags, '{}') AS tags
    FROM patience
    CROSS JOIN {schema}.streams s
    CROSS JOIN LATERAL (
        SELECT e.position, e.event_type, e.tags
        FROM {schema}.events e
        WHERE e.stream_no = s.stream_no AND e.version = $4::bigint
        FOR UPDATE
    ) e
    WHERE {is_stream}
),
wanted AS MATERIALIZED (
    SELECT h.position, h.event_type, h.tags
    FROM held h
    WHERE $5::text <> ALL (h.tags) AND cardinality(h.tags) < $6::bigint
),
tag_held AS MATERIALIZED (
    SELECT u.tag, t.tag_no, t.counts
    FROM (
        SELECT u.tag
        FROM wanted w
        CROSS JOIN LATERAL unnest(w.tags || $5::text) u(tag)
        ORDER BY u.tag COLLATE "C"
    ) u
    CROSS JOIN LATERAL (
        SELECT t.tag_no, t.counts
        FROM {schema}.tags t
        WHERE t.tag = u.tag AND t.tenant_id = $3::uuid
        FOR UPDATE
    ) t
),
tag_made AS (
    INSERT INTO {schema}.tags (tenant_id, tag, counts)
    SELECT $3::uuid, $5::text, jsonb_build_object(w.event_type, 1)
    FROM wanted w
    WHERE NOT EXISTS (SELECT FROM tag_held h WHERE h.tag = $5::text)
    ON CONFLICT DO NOTHING
    RETURNING tag_no
),
tag_numbers AS MATERIALIZED (
    SELECT m.tag_no FROM tag_made m
    UNION ALL
    SELECT h.tag_no FROM tag_held h WHERE h.tag = $5::text
),
fine AS MATERIALIZED (
    SELECT 1 / CASE
        WHEN (SELECT count(*) FROM tag_numbers) = (SELECT count(*) FROM wanted) THEN 1 ELSE 0 END AS is_fine
),
counted AS (
    UPDATE {schema}.tags t
    SET counts = h.counts || jsonb_build_object(n.name, coalesce((h.counts ->> n.name)::bigint, 0) + 1)
    FROM fine, wanted w, tag_held h
    CROSS JOIN LATERAL (SELECT CASE WHEN h.tag = $5::text THEN w.event_type ELSE '' END AS name) n
    WHERE fine.is_fine = 1 AND t.tag_no = h.tag_no AND t.tag_no = ANY (ARRAY(SELECT tag_no FROM tag_held))
),
added AS (
    UPDATE {schema}.events e
    SET tags = w.tags || $5::text
    FROM fine, wanted w, tag_numbers n
    WHERE fine.is_fine = 1 AND e.position = w.position
    RETURNING n.tag_no, e.position
),
linked AS (
    INSERT INTO {schema}.tagged_events (tag_no, position)
    SELECT a.tag_no, a.position
    FROM added a
)
SELECT $5::text = ANY (h.tags) AS has_tag, EXISTS (SELECT FROM added) AS is_added
FROM held h, fine
WHERE fine.is_fine = 1
