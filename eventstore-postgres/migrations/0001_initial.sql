-- The tables of a store: plain tables, sequences, and one function that reads; no triggers or foreign keys.

-- The order of all events of the store. One sequence for all: checkpoints and the relay's published position are
-- numbers of this one order, so it stays one per store, not one per tenant or stream.
--
-- 2^44 - 1 is the largest position that fits into the key of the feed's advisory locks.
CREATE SEQUENCE IF NOT EXISTS {schema}.events_position_seq AS bigint MAXVALUE 17592186044415 CACHE 1 NO CYCLE;

-- Names streams in `events` by 8 bytes. Numbers are skipped, never used twice, and their order means nothing.
CREATE SEQUENCE IF NOT EXISTS {schema}.streams_stream_no_seq AS bigint NO CYCLE;

-- Writers lock the row of their stream: the version in it makes the versions of its events unique. 90 % keeps its
-- updates on the same page.
CREATE TABLE IF NOT EXISTS {schema}.streams (
    stream_no        bigint           NOT NULL DEFAULT nextval('{schema}.streams_stream_no_seq'),
    version          bigint           NOT NULL,           -- of its last event
    archived_through bigint           NOT NULL DEFAULT 0, -- the version up to which its events were taken out
    recorded_at      timestamptz      NOT NULL,           -- of its last event: the next one is not recorded earlier
    tenant_id        uuid             NOT NULL,           -- the nil UUID is no tenant
    kind             smallint         NOT NULL DEFAULT 0, -- 0: a stream; reserved: 1 a unique value, 2 a tag
    aggregate_id     text COLLATE "C" NOT NULL,
    aggregate_type   text COLLATE "C" NOT NULL,
    CONSTRAINT streams_pkey PRIMARY KEY (stream_no),
    CONSTRAINT streams_identity_key UNIQUE (aggregate_id, aggregate_type, tenant_id, kind)
) WITH (fillfactor = 90);

ALTER SEQUENCE {schema}.streams_stream_no_seq OWNED BY {schema}.streams.stream_no;

-- No statement depends on a key that spans all events: the table can be partitioned by ranges of positions, each
-- partition with these three keys.
--
-- Payloads are JSON texts and stay so: `json`, not `jsonb`, keeps the bytes as given, and no payload is ever binary.
--
-- Fixed-width columns first, so that nothing is padded; optional columns last, where a null costs a bit.
CREATE TABLE IF NOT EXISTS {schema}.events (
    position             bigint           NOT NULL, -- drawn in the append statement, never by a default
    stream_no            bigint           NOT NULL,
    version              bigint           NOT NULL,
    occurred_at          timestamptz      NOT NULL,
    recorded_at          timestamptz      NOT NULL, -- never decreases along a stream
    event_id             uuid             NOT NULL,
    correlation_id       uuid             NOT NULL,
    schema_version       integer          NOT NULL,
    has_sealed_fields    boolean          NOT NULL DEFAULT false, -- reserved: fields of the payload are encrypted
    event_type           text COLLATE "C" NOT NULL,
    payload              json             NOT NULL, -- the event's own fields
    causation_id         uuid,
    actor_id             text,
    attributes           json,                      -- null when nothing is attached
    original_recorded_at timestamptz,               -- of an imported event: when the store it comes from recorded it
    tags                 text[],                    -- reserved: what a decision reads beside streams
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_stream_key UNIQUE (stream_no, version),
    CONSTRAINT events_event_id_key UNIQUE (event_id, stream_no)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);

ALTER SEQUENCE {schema}.events_position_seq OWNED BY {schema}.events.position;

-- lz4 makes large payloads three times cheaper; servers before 14, or built without it, keep their default.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE {schema}.events ALTER payload SET COMPRESSION lz4';
EXCEPTION WHEN syntax_error OR feature_not_supported THEN
    NULL;
END
$$;

-- The event types that appends have stored.
--
-- Appends only add rows, and never one that is there: so no append waits here for a different one, however long a
-- transaction is open that stored the first event of a type. Of the rows of a type the highest version and the lowest
-- position count; there are more than one if first appends raced, or a higher version came.
CREATE TABLE IF NOT EXISTS {schema}.event_types (
    event_type     text COLLATE "C" NOT NULL,
    schema_version integer          NOT NULL,
    first_position bigint           NOT NULL,
    CONSTRAINT event_types_pkey PRIMARY KEY (event_type, schema_version, first_position)
);

-- One row: what tells this store from all others, also once it is restored elsewhere.
CREATE TABLE IF NOT EXISTS {schema}.store (
    only_row boolean NOT NULL DEFAULT true,
    id       uuid    NOT NULL,
    CONSTRAINT store_pkey PRIMARY KEY (only_row),
    CONSTRAINT store_is_one_row CHECK (only_row)
);
INSERT INTO {schema}.store (id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING;

-- How far readers of the feed have come.
CREATE TABLE IF NOT EXISTS {schema}.checkpoints (
    name       text COLLATE "C" NOT NULL,
    position   bigint           NOT NULL,
    updated_at timestamptz      NOT NULL,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (name)
);

-- What the keepers of checkpoints note beside them, such as the event types that a projection was fed with.
CREATE TABLE IF NOT EXISTS {schema}.notes (
    name text COLLATE "C" NOT NULL,
    note text             NOT NULL,
    CONSTRAINT notes_pkey PRIMARY KEY (name)
);

-- Which owner has which role. The store deletes no row: the epoch of a role only grows.
CREATE TABLE IF NOT EXISTS {schema}.leases (
    role       text COLLATE "C" NOT NULL,
    owner      text COLLATE "C" NOT NULL,
    epoch      bigint           NOT NULL,
    renewed_at timestamptz      NOT NULL, -- a lease of the future is one that the clock was set back from, and free
    expires_at timestamptz      NOT NULL,
    CONSTRAINT leases_pkey PRIMARY KEY (role)
) WITH (fillfactor = 50);

-- The inbox: which handler has handled which event, in the transaction in which it did.
CREATE TABLE IF NOT EXISTS {schema}.deliveries (
    event_id       uuid             NOT NULL, -- unique within the stream that the three columns below name
    tenant_id      uuid             NOT NULL, -- the nil UUID is no tenant
    handled_at     timestamptz      NOT NULL DEFAULT now(),
    handler        text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    CONSTRAINT deliveries_pkey PRIMARY KEY (handler, event_id, aggregate_id, aggregate_type, tenant_id)
);
CREATE INDEX IF NOT EXISTS deliveries_handled_at_idx ON {schema}.deliveries (handled_at);

-- The state of an aggregate at a version of its stream, so that a load reads only the events after it. Disposable:
-- without a row a load reads all events. No foreign key: the rows of an archived stream may stay or go, and no saver
-- waits for an append. 70 % keeps updates of small rows on the same page.
CREATE TABLE IF NOT EXISTS {schema}.snapshots (
    stream_no bigint           NOT NULL,
    version   bigint           NOT NULL, -- of the last event that the data contains
    taken_at  timestamptz      NOT NULL,
    fold      text COLLATE "C" NOT NULL, -- the state type that the data is of
    data      bytea            NOT NULL,
    CONSTRAINT snapshots_pkey PRIMARY KEY (stream_no, fold)
) WITH (fillfactor = 70);

-- lz4 costs a tenth of the processor time of the default; servers before 14, or built without it, keep the default.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE {schema}.snapshots ALTER data SET COMPRESSION lz4';
EXCEPTION WHEN syntax_error OR feature_not_supported THEN
    NULL;
END
$$;

-- The unique values that streams hold, such as email addresses. A row stays when its stream gives the value back: the
-- next stream that takes the value has a row to lock.
--
-- A table of its own: an index that finds the value of a stream would make each update of a stream's row touch all
-- indexes of `streams`, if the values were rows of that table.
CREATE TABLE IF NOT EXISTS {schema}.unique_values (
    tenant_id uuid             NOT NULL, -- the nil UUID is no tenant
    stream_no bigint           NOT NULL, -- the stream that holds it; 0: none
    value     text COLLATE "C" NOT NULL,
    scope     text COLLATE "C" NOT NULL, -- aggregate type and name: `User.email`
    CONSTRAINT unique_values_pkey PRIMARY KEY (value, scope, tenant_id)
);
CREATE INDEX IF NOT EXISTS unique_values_stream_idx ON {schema}.unique_values (stream_no, scope);

-- The commands that took effect, by the key that their client gave them, with their answers.
CREATE TABLE IF NOT EXISTS {schema}.commands (
    request    uuid             NOT NULL, -- a fingerprint of what was commanded
    tenant_id  uuid             NOT NULL, -- the nil UUID is no tenant
    handled_at timestamptz      NOT NULL DEFAULT clock_timestamp(),
    key        text COLLATE "C" NOT NULL,
    answer     text             NOT NULL,
    CONSTRAINT commands_pkey PRIMARY KEY (key, tenant_id)
);
CREATE INDEX IF NOT EXISTS commands_handled_at_idx ON {schema}.commands (handled_at);

-- How many events of each type have a tag. An append locks the rows of its tags, judges its condition by what they
-- count, and adds its own events. No row is deleted and no count shrinks, also when events are taken out: a condition
-- whose count is passed once is passed for ever.
CREATE SEQUENCE IF NOT EXISTS {schema}.tags_tag_no_seq AS bigint NO CYCLE;

-- 70 % keeps the updates of a row on the same page.
CREATE TABLE IF NOT EXISTS {schema}.tags (
    tag_no    bigint           NOT NULL DEFAULT nextval('{schema}.tags_tag_no_seq'),
    tenant_id uuid             NOT NULL, -- the nil UUID is no tenant
    tag       text COLLATE "C" NOT NULL, -- name and value: `course:c1`
    counts    jsonb            NOT NULL, -- the number of events by type: {"Enrolled": 12}
    CONSTRAINT tags_pkey PRIMARY KEY (tag_no),
    CONSTRAINT tags_identity_key UNIQUE (tag, tenant_id)
) WITH (fillfactor = 70);

ALTER SEQUENCE {schema}.tags_tag_no_seq OWNED BY {schema}.tags.tag_no;

-- The index of `events.tags`, which are the truth: the events of a tag in the order of their positions. An event that was
-- taken out leaves its rows.
CREATE TABLE IF NOT EXISTS {schema}.tagged_events (
    tag_no   bigint NOT NULL,
    position bigint NOT NULL, -- of the event
    CONSTRAINT tagged_events_pkey PRIMARY KEY (tag_no, position)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);

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
