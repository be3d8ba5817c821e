-- The handlers of the store's events, and how far each has come. A handler has shards, each with a lease and progress of
-- its own; stream `s` belongs to shard `(s.stream_no & 255) % shards`.

-- What the store notes of a handler: its group, its number of shards, its event types.
CREATE TABLE IF NOT EXISTS {schema}.handlers (
    name text COLLATE "C" NOT NULL,
    note jsonb            NOT NULL,
    CONSTRAINT handlers_pkey PRIMARY KEY (name)
);

-- The rows are few and updated all the time. With 40 % an update finds room on its page, and no index changes.
CREATE TABLE IF NOT EXISTS {schema}.handler_shards (
    epoch      bigint           NOT NULL DEFAULT 0,            -- grows with each owner
    checkpoint bigint           NOT NULL,                      -- the highest event that was started
    changes    bigint           NOT NULL DEFAULT 0,            -- by operators, to its rows in `handler_rows`
    renewed_at timestamptz      NOT NULL DEFAULT '-infinity',  -- a lease of the future is free: the clock was set back
    expires_at timestamptz      NOT NULL DEFAULT '-infinity',
    unclean    integer          NOT NULL DEFAULT 0,            -- owners in a row that ended without progress
    shard      smallint         NOT NULL,
    handler    text COLLATE "C" NOT NULL,
    owner      text COLLATE "C",                               -- null if it was released
    waiting    bigint[]         NOT NULL DEFAULT '{}',         -- events up to the checkpoint that have not started
    started    bigint[]         NOT NULL DEFAULT '{}',         -- events that ran at the last save
    left_types jsonb            NOT NULL DEFAULT '{}',         -- the types that the checkpoint does not count for: since when
    CONSTRAINT handler_shards_pkey PRIMARY KEY (handler, shard)
) WITH (fillfactor = 40);

-- The events that a handler has not finished and that have attempts to keep: those that failed, and dead letters.
CREATE TABLE IF NOT EXISTS {schema}.handler_rows (
    position   bigint           NOT NULL, -- of the event
    dead_since timestamptz,               -- null while it waits
    shard      smallint         NOT NULL,
    is_held    boolean          NOT NULL, -- a dead letter for which later events of its stream wait
    handler    text COLLATE "C" NOT NULL,
    attempts   text             NOT NULL, -- JSON: the attempts so far
    CONSTRAINT handler_rows_pkey PRIMARY KEY (handler, position)
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS handler_rows_live_idx
ON {schema}.handler_rows (handler, shard, position) WHERE dead_since IS NULL OR is_held;
CREATE INDEX IF NOT EXISTS handler_rows_dead_idx
ON {schema}.handler_rows (dead_since, position, handler) WHERE dead_since IS NOT NULL;

-- The processes that run handlers.
CREATE TABLE IF NOT EXISTS {schema}.handler_members (
    seen_at  timestamptz      NOT NULL,
    name     text COLLATE "C" NOT NULL,
    handlers text             NOT NULL, -- JSON: its handlers, each with the list of its types and its crate
    CONSTRAINT handler_members_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {schema}.paused_groups (
    name text COLLATE "C" NOT NULL,
    CONSTRAINT paused_groups_pkey PRIMARY KEY (name)
);

-- Reads the end of the feed, and then a page behind a position, in one round trip: as `head.sql`, `read_page.sql` and
-- `read_filtered.sql` do in two. The first row has the end: the head, whether appends are open, whether the server is a
-- standby, and the position up to which the page searches. Each further row has an event.
--
-- Invariant: the page is read in a newer snapshot than the head, or it misses an append that commits between the two. A
-- volatile function takes a new snapshot for each of its statements, but only in a transaction that is READ COMMITTED:
-- in any other it fails, and the store sends two statements.
--
-- The text names its schema. If that was renamed, the function must not read a schema that has the old name since: it
-- fails unless `of_schema` is the name that it was made with.
CREATE OR REPLACE FUNCTION {schema}.read_feed_page(
    after_position bigint, event_types text[], slots bytea, most bigint, of_schema text)
RETURNS TABLE (
    "position" bigint, version bigint, occurred_at timestamptz, event_id uuid, correlation_id uuid, schema_version integer,
    event_type text, payload json, causation_id uuid, actor_id text, attributes json, recorded_at timestamptz,
    original_recorded_at timestamptz, has_sealed_fields boolean, stream_no bigint, has_former boolean,
    head bigint, has_open_appends boolean, is_standby boolean, reach bigint)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan -- planning for the given positions takes as long as reading them
AS $$
#variable_conflict use_column
DECLARE
    found_head bigint;
    is_open boolean;
    page_end bigint;
BEGIN
    IF of_schema <> '{schema}' OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE 'read the head and the page by two statements';
    END IF;

    SELECT (SELECT max(e.position) FROM {schema}.events e WHERE e.position <= least(b.drawn, b.lowest)), b.lowest IS NOT NULL
    INTO found_head, is_open
    FROM (
        SELECT r.drawn, (
            SELECT min(((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 44) - 1))
            FROM pg_catalog.pg_locks l
            WHERE r.drawn IS NOT NULL
              AND l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock'
              AND (l.classid::bigint >> 12) = {namespace}
              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
        ) AS lowest
        FROM (SELECT {drawn} AS drawn OFFSET 0) r
        OFFSET 0
    ) b;
    found_head := coalesce(found_head, 0);
    -- a filter may match none of the positions that it searches
    page_end := CASE WHEN event_types IS NULL AND slots IS NULL OR after_position >= found_head THEN found_head
        ELSE least(found_head, after_position + 100000) END;
    head := found_head;
    has_open_appends := is_open;
    is_standby := pg_is_in_recovery();
    reach := page_end;
    RETURN NEXT;

    IF after_position >= found_head THEN
        RETURN;
    ELSIF event_types IS NULL AND slots IS NULL THEN
        RETURN QUERY
        SELECT e.position, e.version, e.occurred_at, e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload,
            e.causation_id, e.actor_id, e.attributes, e.recorded_at, e.original_recorded_at, e.has_sealed_fields, e.stream_no,
            CASE WHEN e.position = (SELECT min(n.position) FROM {schema}.events n WHERE n.position > after_position) THEN
                coalesce((
                    SELECT true FROM {schema}.events f WHERE f.stream_no = e.stream_no AND f.version = e.version - 1 LIMIT 1
                ), (
                    SELECT s.archived_through >= e.version - 1 FROM {schema}.streams s WHERE s.stream_no = e.stream_no
                )) END,
            NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint
        FROM {schema}.events e
        WHERE e.position > after_position AND e.position <= page_end
        ORDER BY e.position
        LIMIT most;
    ELSE
        RETURN QUERY
        SELECT e.position, e.version, e.occurred_at, e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload,
            e.causation_id, e.actor_id, e.attributes, e.recorded_at, e.original_recorded_at, e.has_sealed_fields, e.stream_no,
            NULL::boolean, NULL::bigint, NULL::boolean, NULL::boolean, NULL::bigint
        FROM (
            SELECT *
            FROM {schema}.events w
            WHERE w.position > after_position AND w.position <= page_end
            ORDER BY w.position
            OFFSET 0 -- keeps the filter out of the choice of the plan, see `read_filtered.sql`
        ) e
        WHERE (slots IS NULL OR get_bit(slots, (e.stream_no & 255)::integer) = 1)
            AND (event_types IS NULL OR e.event_type = ANY (event_types))
        ORDER BY e.position
        LIMIT most;
    END IF;
END
$$;
