-- Adds the tag $5 to the event at version $4 of a stream, and counts it; no row if there is no such event.
--
-- $1 aggregate id, $2 aggregate type, $3 tenant, $6 the most tags of an event.
--
-- The tag counts the event by its type; the tags that the event has already count it under the empty name, as it may
-- now belong to a boundary of several tags.
--
-- Invariant: the statement locks the event, then counts all tags in their order, and updates the event last. A repeated
-- append that meets the key of the event waits if the event was updated, but not if it is only locked; so this statement
-- waits for the rows of the tags, which such an append may hold, while it has updated nothing.
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
counted AS (
    INSERT INTO {schema}.tags AS t (tenant_id, tag, counts)
    SELECT $3::uuid, u.tag, jsonb_build_object(CASE WHEN u.tag = $5::text THEN w.event_type ELSE '' END, 1)
    FROM wanted w
    CROSS JOIN LATERAL unnest(w.tags || $5::text) u(tag)
    ORDER BY u.tag COLLATE "C"
    ON CONFLICT (tag, tenant_id) DO UPDATE
    SET counts = t.counts || (
        SELECT jsonb_object_agg(a.key, a.value::bigint + coalesce((t.counts ->> a.key)::bigint, 0))
        FROM jsonb_each_text(excluded.counts) a
    )
    RETURNING t.tag, t.tag_no
),
added AS (
    UPDATE {schema}.events e
    SET tags = w.tags || $5::text
    FROM wanted w, (SELECT max(c.tag_no) FILTER (WHERE c.tag = $5::text) AS tag_no FROM counted c) c
    WHERE e.position = w.position
    RETURNING c.tag_no, e.position
),
linked AS (
    INSERT INTO {schema}.tagged_events (tag_no, position)
    SELECT a.tag_no, a.position
    FROM added a
)
SELECT $5::text = ANY (h.tags) AS has_tag, EXISTS (SELECT FROM added) AS is_added
FROM held h
