-- Streams, events and checkpoints: plain tables and one sequence, no functions, triggers or foreign keys.

-- 2^44 - 1 is the largest position that fits into the key of the feed's advisory locks.
CREATE SEQUENCE IF NOT EXISTS {schema}.events_position_seq AS bigint MAXVALUE 17592186044415 CACHE 1 NO CYCLE;

-- The row of a stream is what its writers lock; 90 % keeps its updates on the same page.
CREATE TABLE IF NOT EXISTS {schema}.streams (
    aggregate_id   text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    version        bigint           NOT NULL,
    PRIMARY KEY (aggregate_id, aggregate_type)
) WITH (fillfactor = 90);

-- Fixed-width columns first, so that nothing is padded; optional columns last, where a null costs a bit.
CREATE TABLE IF NOT EXISTS {schema}.events (
    position       bigint           NOT NULL, -- drawn in the append statement, never by a default
    version        bigint           NOT NULL,
    occurred_at    timestamptz      NOT NULL,
    recorded_at    timestamptz      NOT NULL DEFAULT now(),
    event_id       uuid             NOT NULL,
    correlation_id uuid             NOT NULL,
    schema_version integer          NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    event_type     text COLLATE "C" NOT NULL,
    data           json             NOT NULL, -- json, not jsonb: the bytes as given
    causation_id   uuid,
    tenant_id      uuid,
    actor_id       text,
    metadata       json,
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_stream_key UNIQUE (aggregate_id, aggregate_type, version),
    CONSTRAINT events_event_id_key UNIQUE (event_id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);

ALTER SEQUENCE {schema}.events_position_seq OWNED BY {schema}.events.position;

CREATE TABLE IF NOT EXISTS {schema}.checkpoints (
    name       text COLLATE "C" PRIMARY KEY,
    position   bigint           NOT NULL,
    updated_at timestamptz      NOT NULL
);

-- lz4 makes large payloads three times cheaper; servers before 14, or built without it, keep their default.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE {schema}.events ALTER data SET COMPRESSION lz4';
EXCEPTION WHEN syntax_error OR feature_not_supported THEN
    NULL;
END
$$;
