-- The tables of a store: plain tables and one sequence, no functions, triggers or foreign keys.

-- The order of all events of the store. One sequence for all: checkpoints, floors and the relay's published position
-- are numbers of this one order, so it stays one per store, not one per tenant or stream.
--
-- 2^44 - 1 is the largest position that fits into the key of the feed's advisory locks.
CREATE SEQUENCE IF NOT EXISTS {schema}.events_position_seq AS bigint MAXVALUE 17592186044415 CACHE 1 NO CYCLE;

-- The row of a stream is what its writers lock; 90 % keeps its updates on the same page.
CREATE TABLE IF NOT EXISTS {schema}.streams (
    aggregate_id   text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    version        bigint           NOT NULL,
    CONSTRAINT streams_pkey PRIMARY KEY (aggregate_id, aggregate_type)
) WITH (fillfactor = 90);

-- Payloads are JSON texts and stay so: `json`, not `jsonb`, keeps the bytes as given, and no payload is ever binary.
--
-- Fixed-width columns first, so that nothing is padded; optional columns last, where a null costs a bit.
CREATE TABLE IF NOT EXISTS {schema}.events (
    position             bigint           NOT NULL, -- drawn in the append statement, never by a default
    version              bigint           NOT NULL,
    occurred_at          timestamptz      NOT NULL,
    recorded_at          timestamptz      NOT NULL DEFAULT now(),
    event_id             uuid             NOT NULL,
    correlation_id       uuid             NOT NULL,
    schema_version       integer          NOT NULL,
    has_sealed_fields    boolean          NOT NULL DEFAULT false, -- reserved: fields of the payload are encrypted
    aggregate_id         text COLLATE "C" NOT NULL,
    aggregate_type       text COLLATE "C" NOT NULL,
    event_type           text COLLATE "C" NOT NULL,
    payload              json             NOT NULL, -- the event's own fields
    causation_id         uuid,
    tenant_id            uuid,
    actor_id             text,
    attributes           json,                      -- null when nothing is attached
    original_recorded_at timestamptz,               -- of an imported event: when the store it comes from recorded it
    tags                 text[],                    -- reserved: what a decision reads beside streams
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_stream_key UNIQUE (aggregate_id, aggregate_type, version),
    CONSTRAINT events_event_id_key UNIQUE (event_id)
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
-- Rows are only added, and never one that is there: so nobody who appends waits here for another, however long a
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

-- Who has which role. Rows are never deleted: the epoch of a role only grows.
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
    event_id   uuid             NOT NULL,
    handled_at timestamptz      NOT NULL DEFAULT now(),
    handler    text COLLATE "C" NOT NULL,
    CONSTRAINT deliveries_pkey PRIMARY KEY (handler, event_id)
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
