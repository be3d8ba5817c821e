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
