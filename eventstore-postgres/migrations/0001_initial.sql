-- The tables of a store: plain tables and one sequence, no functions, triggers or foreign keys.

-- The order of all events of the store. One sequence for all: checkpoints, floors and the relay's published position
-- are numbers of this one order, so it stays one per store, not one per tenant or stream.
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

-- How far the consumer groups of a bus have finished.
CREATE TABLE IF NOT EXISTS {schema}.floors (
    destination    text COLLATE "C" NOT NULL,
    consumer_group text COLLATE "C" NOT NULL,
    position       bigint           NOT NULL,
    CONSTRAINT floors_pkey PRIMARY KEY (destination, consumer_group)
);

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

-- What groups of the in-process bus have not finished although their checkpoints may have passed it.
CREATE TABLE IF NOT EXISTS {schema}.unfinished_deliveries (
    consumer_group text COLLATE "C" NOT NULL,
    position       bigint           NOT NULL, -- of the event
    attempts       text             NOT NULL, -- JSON: the attempts of its handlers so far
    dead_since     timestamptz,               -- null while it waits
    CONSTRAINT unfinished_deliveries_pkey PRIMARY KEY (consumer_group, position)
);
CREATE INDEX IF NOT EXISTS unfinished_deliveries_dead_idx
ON {schema}.unfinished_deliveries (dead_since, position, consumer_group) WHERE dead_since IS NOT NULL;
