-- Appends to several streams and notes the delivery or command that is handled, or does nothing; returns what it found.
--
-- $1 to $5 the streams, one array per column: id, type, tenant, expected version (-1 any, -2 has events), event count;
-- a stream without events is only checked.
-- $6 and $7 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $8 to $17 the events, one array per column.
-- $18 to $22 the delivery: handler, event id, and the stream of the event: id, type, tenant; null without one.
-- $23 to $25 the changes of unique values: the stream, counted from 1, the scope, and the value to take; null gives back.
-- $26 to $29 the command: tenant, key, fingerprint of the request, answer; null without one.
--
-- A part, from `-- if <part>` to `-- end`, is only in the statement of an append that needs it, as a part without rows costs
-- as much time as one with a row. `values`: it changes unique values. `note`: it notes a delivery or a command. `types`: its
-- types may not be listed. `tags`: it has tags or a condition, with the parameters:
-- $30 for each event its tags, as the text of an array; null if it has none.
-- $31 to $34 the tags that are counted or compared, each once: tag, tenant, the numbers of further events by type, as JSON,
-- and the number of events of the types $35 that the condition expects; null if it does not name the tag.
-- $36 and $37 the items of the condition: for each tag of each item the number of the item, and that of the tag from 1.
--
-- `result` 0: it took effect. 1: a stored event. 2: the stream `number` is at `version`, not as expected.
-- 3: the boundary of the condition has a further event, with `version` 1 for ever, as counts do not shrink.
-- 4: another stream holds the value of change `number`; or its own stream does, with `version` 1, if this snapshot does
-- not have that stream. No rows: the delivery or the command was noted before, or an event id is stored in a partition.
--
-- Invariant: the statement judges the rows that it has locked, and all of them before it writes. It locks the rows that
-- exist, first those of streams, then of values, then of tags, each in the order of their keys; then it notes the delivery
-- or the command; then it inserts new streams, new values and new tags, in the same order; then it updates the others,
-- locks the bound and draws positions: the order of `claims_of_any.sql`. The counts named `after_…` keep this order. A stream
-- that must not exist and is only checked gets a row of version 0, and a tag that is only compared and has no row gets one
-- with empty counts, so that there is a row to hold.
--
-- Races with concurrent writers make `fine` fail the statement by a division by zero, as its other rows must go: a writer
-- inserted a stream that this snapshot does not have (`made` returns fewer rows than `missing`), or a value (`added` fewer
-- than `absent`), or a tag (`tag_made` fewer than `tag_missing`), or changed the values of a stream while this statement
-- waited for its row (`raced`).
--
-- The server keeps the plan that it makes at the first call, when the tables may be small: `OFFSET 0` and `ON CONFLICT` keep it
-- from joining the tags and the values with all rows of their tables, which it would do for ever.
-- if tags
{planned_once}
-- end
WITH patience AS MATERIALIZED (
    SELECT {patience}
),
wanted AS MATERIALIZED (
    SELECT w.*
    FROM patience, unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
        WITH ORDINALITY w(aggregate_id, aggregate_type, tenant_id, expected, events, number)
),
held AS MATERIALIZED (
    SELECT w.*, s.stream_no, s.version AS base, s.row_at
    FROM (SELECT * FROM wanted ORDER BY aggregate_id COLLATE "C", aggregate_type COLLATE "C", tenant_id) w
    CROSS JOIN LATERAL (
        SELECT s.stream_no, s.version, s.ctid AS row_at
        FROM {schema}.streams s
        WHERE s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type
          AND s.tenant_id = w.tenant_id AND s.kind = 0
        FOR UPDATE
    ) s
),
failed AS MATERIALIZED (
    SELECT w.number, coalesce(h.base, 0) AS actual
    FROM wanted w
    LEFT JOIN held h ON h.number = w.number
    WHERE w.expected <> -1 AND w.expected <> coalesce(h.base, 0) AND NOT (w.expected = -2 AND coalesce(h.base, 0) > 0)
),
-- if values
changed AS MATERIALIZED (
    SELECT c.number, c.scope, c.value, c.ordinal, w.tenant_id, h.stream_no
    FROM unnest($23::bigint[], $24::text[], $25::text[]) WITH ORDINALITY c(number, scope, value, ordinal)
    JOIN wanted w ON w.number = c.number
    LEFT JOIN held h ON h.number = c.number
),
present AS MATERIALIZED (
    SELECT v.value, v.scope, v.tenant_id, v.stream_no
    FROM (
        SELECT v.value, v.scope, v.tenant_id
        FROM changed c
        CROSS JOIN LATERAL (
            SELECT v.value, v.scope, v.tenant_id
            FROM {schema}.unique_values v
            WHERE v.value = c.value AND v.scope = c.scope AND v.tenant_id = c.tenant_id
            OFFSET 0
        ) v
        UNION
        SELECT v.value, v.scope, v.tenant_id
        FROM changed c
        CROSS JOIN LATERAL (
            SELECT v.value, v.scope, v.tenant_id
            FROM {schema}.unique_values v
            WHERE v.stream_no = c.stream_no AND v.scope = c.scope
            OFFSET 0
        ) v
        ORDER BY value, scope, tenant_id
    ) t
    CROSS JOIN LATERAL (
        SELECT v.value, v.scope, v.tenant_id, v.stream_no
        FROM {schema}.unique_values v
        WHERE v.value = t.value AND v.scope = t.scope AND v.tenant_id = t.tenant_id
        FOR UPDATE
    ) v
),
taken AS MATERIALIZED (
    SELECT c.ordinal, c.stream_no IS NULL AS is_new
    FROM changed c
    JOIN present o ON o.value = c.value AND o.scope = c.scope AND o.tenant_id = c.tenant_id
    WHERE o.stream_no <> 0 AND o.stream_no IS DISTINCT FROM c.stream_no
      AND NOT EXISTS (SELECT FROM changed g WHERE g.stream_no = o.stream_no AND g.scope = o.scope)
    UNION ALL
    SELECT max(c.ordinal), false FROM changed c WHERE c.value IS NOT NULL GROUP BY c.value, c.scope, c.tenant_id HAVING count(*) > 1
),
-- end
-- if tags
tag_wanted AS MATERIALIZED (
    SELECT w.number, w.tag, w.tenant_id, w.added::jsonb AS added, w.expected
    FROM unnest($31::text[], $32::uuid[], $33::text[], $34::bigint[])
        WITH ORDINALITY w(tag, tenant_id, added, expected, number)
),
tag_held AS MATERIALIZED (
    SELECT w.number, t.tag_no, t.counts
    FROM (
        SELECT w.number, w.tag, w.tenant_id
        FROM (SELECT count(*) FROM held) after_streams,
-- if values
            (SELECT count(*) FROM present) after_values,
-- end
            tag_wanted w
        ORDER BY w.tag COLLATE "C", w.tenant_id
    ) w
    CROSS JOIN LATERAL (
        SELECT t.tag_no, t.counts
        FROM {schema}.tags t
        WHERE t.tag = w.tag AND t.tenant_id = w.tenant_id
        FOR UPDATE
    ) t
),
tag_judged AS MATERIALIZED (
    SELECT w.number, w.tag, w.tenant_id, w.added, w.expected, h.tag_no, coalesce(h.counts, '{}') AS counts,
        coalesce((SELECT sum((h.counts ->> c.event_type)::bigint) FROM unnest($35::text[]) c(event_type)), 0) AS actual
    FROM tag_wanted w
    LEFT JOIN tag_held h ON h.number = w.number
),
boundary_moved AS MATERIALIZED (
    -- a left join, so that the rows of all tags are locked before the statement writes, also without a condition
    SELECT bool_or(m.is_final) AS is_final
    FROM (
        SELECT bool_and(t.actual > t.expected) AS is_final
        FROM tag_judged t
        LEFT JOIN unnest($36::bigint[], $37::bigint[]) i(item, number) ON i.number = t.number
        GROUP BY i.item
        HAVING bool_and(coalesce(t.actual <> t.expected, false))
    ) m
    HAVING count(*) > 0
),
-- end
known AS MATERIALIZED (
    SELECT DISTINCT new.stream
    FROM unnest($6::bigint[], $8::uuid[]) new(stream, event_id)
    JOIN held h ON h.number = new.stream
    WHERE {is_stored}
),
-- if note
commanded AS (
    INSERT INTO {schema}.commands (tenant_id, key, request, answer)
    SELECT $26::uuid, $27::text, $28::uuid, $29::text
    WHERE $27::text IS NOT NULL AND NOT EXISTS (SELECT FROM failed) AND NOT EXISTS (SELECT FROM known)
-- if values
      AND NOT EXISTS (SELECT FROM taken)
-- end
-- if tags
      AND NOT EXISTS (SELECT FROM boundary_moved)
-- end
    ON CONFLICT DO NOTHING
    RETURNING key
),
noted AS (
    INSERT INTO {schema}.deliveries (handler, event_id, aggregate_id, aggregate_type, tenant_id)
    SELECT $18::text, $19::uuid, $20::text, $21::text, $22::uuid
    WHERE $18::text IS NOT NULL AND NOT EXISTS (SELECT FROM failed) AND NOT EXISTS (SELECT FROM known)
-- if values
      AND NOT EXISTS (SELECT FROM taken)
-- end
-- if tags
      AND NOT EXISTS (SELECT FROM boundary_moved)
-- end
    ON CONFLICT DO NOTHING
    RETURNING handler
),
-- end
go AS MATERIALIZED (
    SELECT true AS is_ready
    WHERE NOT EXISTS (SELECT FROM failed) AND NOT EXISTS (SELECT FROM known)
-- if values
      AND NOT EXISTS (SELECT FROM taken)
-- end
-- if tags
      AND NOT EXISTS (SELECT FROM boundary_moved)
-- end
-- if note
      AND ($18::text IS NULL OR EXISTS (SELECT FROM noted)) AND ($27::text IS NULL OR EXISTS (SELECT FROM commanded))
-- end
),
missing AS MATERIALIZED (
    SELECT w.*, nextval('{schema}.streams_stream_no_seq') AS stream_no
    FROM go, wanted w
    WHERE w.number NOT IN (SELECT h.number FROM held h) AND (w.events > 0 OR w.expected = 0)
),
made AS (
    INSERT INTO {schema}.streams (stream_no, aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    SELECT w.stream_no, w.aggregate_id, w.aggregate_type, w.tenant_id, w.events, clock_timestamp()
    FROM missing w
    ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C", w.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING stream_no, recorded_at, aggregate_id, aggregate_type, tenant_id
),
-- if values
absent AS MATERIALIZED (
    SELECT c.value, c.scope, c.tenant_id, coalesce(c.stream_no, m.stream_no) AS stream_no
    FROM go, (SELECT count(*) FROM made) after, changed c
    LEFT JOIN missing m ON m.number = c.number
    WHERE c.value IS NOT NULL AND NOT EXISTS (
        SELECT FROM present o WHERE o.value = c.value AND o.scope = c.scope AND o.tenant_id = c.tenant_id)
),
added AS (
    INSERT INTO {schema}.unique_values (value, scope, tenant_id, stream_no)
    SELECT a.value, a.scope, a.tenant_id, a.stream_no
    FROM absent a
    ORDER BY a.value, a.scope, a.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING stream_no
),
-- end
-- if tags
tag_missing AS MATERIALIZED (
    SELECT t.number, t.tag, t.tenant_id, t.added, nextval('{schema}.tags_tag_no_seq') AS tag_no
    FROM go, (SELECT count(*) FROM made) after_streams,
-- if values
        (SELECT count(*) FROM added) after_values,
-- end
        tag_judged t
    WHERE t.tag_no IS NULL
),
tag_made AS (
    INSERT INTO {schema}.tags (tag_no, tenant_id, tag, counts)
    SELECT m.tag_no, m.tenant_id, m.tag, m.added
    FROM tag_missing m
    ORDER BY m.tag COLLATE "C", m.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING tag_no
),
-- end
-- if values
raced AS MATERIALIZED (
    -- its values may be others than this snapshot shows
    SELECT c.number
    FROM changed c
    JOIN held h ON h.number = c.number
    CROSS JOIN LATERAL (SELECT s.ctid AS row_at FROM {schema}.streams s WHERE s.stream_no = h.stream_no OFFSET 0) s
    WHERE s.row_at <> h.row_at
),
-- end
fine AS MATERIALIZED (
    SELECT 1 / CASE
        WHEN (SELECT count(*) FROM made) = (SELECT count(*) FROM missing)
-- if values
         AND (SELECT count(*) FROM added) = (SELECT count(*) FROM absent)
         AND (NOT EXISTS (SELECT FROM raced) OR NOT EXISTS (SELECT FROM go))
-- end
-- if tags
         AND (SELECT count(*) FROM tag_made) = (SELECT count(*) FROM tag_missing)
-- end
        THEN 1 ELSE 0 END AS is_fine
),
-- if values
passed AS (
    -- the rows exist and are locked: `ON CONFLICT` finds each by its key, where the server could plan an `UPDATE` as a join
    -- with all rows
    INSERT INTO {schema}.unique_values (value, scope, tenant_id, stream_no)
    SELECT o.value, o.scope, o.tenant_id, coalesce(c.taken_by, 0)
    FROM fine, go, present o
    LEFT JOIN LATERAL (
        SELECT coalesce(c.stream_no, m.stream_no) AS taken_by
        FROM changed c
        LEFT JOIN missing m ON m.number = c.number
        WHERE c.value = o.value AND c.scope = o.scope AND c.tenant_id = o.tenant_id
    ) c ON true
    WHERE fine.is_fine = 1 AND o.stream_no <> coalesce(c.taken_by, 0)
      -- not a row that another stream has taken since this snapshot
      AND (o.stream_no = 0 OR EXISTS (SELECT FROM changed g WHERE g.stream_no = o.stream_no AND g.scope = o.scope))
    ON CONFLICT (value, scope, tenant_id) DO UPDATE SET stream_no = excluded.stream_no
    RETURNING stream_no
),
-- end
-- if tags
tag_counted AS (
    INSERT INTO {schema}.tags (tag_no, tenant_id, tag, counts)
    SELECT j.tag_no, j.tenant_id, j.tag, j.counts || (
        SELECT jsonb_object_agg(a.key, a.value::bigint + coalesce((j.counts ->> a.key)::bigint, 0))
        FROM jsonb_each_text(j.added) a
    )
    FROM fine, go, tag_judged j
    WHERE fine.is_fine = 1 AND j.tag_no IS NOT NULL AND j.added <> '{}'
    ON CONFLICT (tag, tenant_id) DO UPDATE SET counts = excluded.counts
    RETURNING tag_no
),
-- end
moved AS (
    -- also a row whose stream only changes its values: `raced` of another statement sees that
    UPDATE {schema}.streams s
    SET version = h.base + h.events,
        recorded_at = CASE WHEN h.events > 0 THEN greatest(s.recorded_at, clock_timestamp()) ELSE s.recorded_at END
    FROM held h, fine, go
    WHERE s.stream_no = h.stream_no AND s.stream_no = ANY (ARRAY(SELECT stream_no FROM held)) AND fine.is_fine = 1
      AND (h.events > 0
-- if values
        OR EXISTS (SELECT FROM changed c WHERE c.number = h.number)
-- end
      )
    RETURNING h.number, h.base, s.stream_no, s.recorded_at
),
claimed AS (
    SELECT number, base, stream_no, recorded_at FROM moved
    UNION ALL
    SELECT w.number, 0, m.stream_no, m.recorded_at
    FROM made m
    JOIN wanted w
        ON w.aggregate_id = m.aggregate_id AND w.aggregate_type = m.aggregate_type AND w.tenant_id = m.tenant_id
),
bound AS MATERIALIZED (
    SELECT {lock_bound}
    FROM (SELECT count(*) AS streams FROM claimed) c, fine
    WHERE c.streams > 0 AND fine.is_fine = 1
),
stored AS (
    INSERT INTO {schema}.events (
        position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type,
        payload, causation_id, actor_id, attributes, original_recorded_at
-- if tags
        , tags
-- end
    )
    SELECT
        nextval('{schema}.events_position_seq'), c.stream_no, c.base + e.place, e.occurred_at, c.recorded_at,
        e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload::json, e.causation_id, e.actor_id,
        e.attributes::json, e.original_recorded_at
-- if tags
        , e.tags::text[]
-- end
    FROM bound, unnest(
            $6::bigint[], $7::bigint[], $8::uuid[], $9::text[], $10::integer[], $11::timestamptz[], $12::text[],
            $13::uuid[], $14::uuid[], $15::text[], $16::text[], $17::timestamptz[]
-- if tags
            , $30::text[]
-- end
        ) WITH ORDINALITY e(
            stream, place, event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id,
            actor_id, attributes, original_recorded_at,
-- if tags
            tags,
-- end
            ordinal)
    JOIN claimed c ON c.number = e.stream
    ORDER BY e.ordinal
    RETURNING event_id, version, position, recorded_at, stream_no, event_type, schema_version
-- if tags
        , tags
-- end
),
-- if tags
linked AS (
    INSERT INTO {schema}.tagged_events (tag_no, position)
    SELECT n.tag_no, s.position
    FROM stored s
    CROSS JOIN LATERAL unnest(s.tags) u(tag)
    JOIN claimed c ON c.stream_no = s.stream_no
    JOIN wanted w ON w.number = c.number
    JOIN (
        SELECT t.tag, t.tenant_id, t.tag_no FROM tag_judged t WHERE t.tag_no IS NOT NULL
        UNION ALL
        SELECT m.tag, m.tenant_id, m.tag_no FROM tag_missing m
    ) n ON n.tag = u.tag AND n.tenant_id = w.tenant_id
),
-- end
-- if types
listed AS (
    {insert_types}
),
-- end
result AS (
    SELECT NULL::uuid AS event_id, 0::bigint AS version, NULL::bigint AS position, NULL::timestamptz AS recorded_at,
        0 AS result, NULL::bigint AS number
    FROM go
    UNION ALL
    SELECT s.event_id, s.version, s.position, s.recorded_at, 1, s.stream_no FROM stored s
    UNION ALL
    SELECT NULL, f.actual, NULL, NULL, 2, f.number FROM failed f
-- if tags
    UNION ALL
    SELECT NULL, m.is_final::int, NULL, NULL, 3, NULL FROM boundary_moved m
-- end
-- if values
    UNION ALL
    SELECT NULL, t.is_new::int, NULL, NULL, 4, t.ordinal FROM taken t
-- end
)
SELECT r.event_id, r.version, r.position, r.recorded_at, r.result, r.number
FROM fine, result r
WHERE fine.is_fine = 1
ORDER BY r.result, r.position, r.number
