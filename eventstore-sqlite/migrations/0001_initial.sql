-- The tables of a store. Times are microseconds since 1970, UTC, by the clock of the machine; ids are the 16 bytes of a
-- UUID.

-- The identity of each stream, and its last event. The rows number the streams, so that an event names its stream by a
-- few bytes.
CREATE TABLE eventbus_streams (
    stream_no        INTEGER PRIMARY KEY,
    version          INTEGER NOT NULL,           -- of its last event
    archived_through INTEGER NOT NULL DEFAULT 0, -- the version up to which its events were taken out
    recorded_at      INTEGER NOT NULL,           -- of its last event: the next one is not recorded earlier
    tenant_id        BLOB NOT NULL,              -- the nil UUID is no tenant
    kind             INTEGER NOT NULL DEFAULT 0, -- 0: a stream; reserved: 1 a unique value, 2 a tag
    aggregate_id     TEXT NOT NULL,
    aggregate_type   TEXT NOT NULL,
    CONSTRAINT eventbus_streams_identity_key UNIQUE (aggregate_id, aggregate_type, tenant_id, kind)
) STRICT;

-- Without its row a stream's number would be used again, and its events would belong to the next stream.
CREATE TRIGGER eventbus_streams_keep_rows BEFORE DELETE ON eventbus_streams
BEGIN
    SELECT raise(ABORT, 'a stream cannot be deleted: its events would belong to another one');
END;

-- Events in commit order, which is position order: SQLite has one writer at a time. Checkpoints and the relay's published
-- position are numbers of this one order, so it stays one per store, not one per tenant or stream.
--
-- Payloads are JSON texts and stay so: the column keeps the bytes as given, and no payload is ever binary.
--
-- Without AUTOINCREMENT (20 % slower) a position is one more than the highest, hence the trigger below.
CREATE TABLE eventbus_events (
    position             INTEGER PRIMARY KEY,
    stream_no            INTEGER NOT NULL,
    version              INTEGER NOT NULL,
    occurred_at          INTEGER NOT NULL,
    recorded_at          INTEGER NOT NULL,           -- never decreases along a stream
    event_id             BLOB NOT NULL,
    correlation_id       BLOB NOT NULL,
    schema_version       INTEGER NOT NULL,
    has_sealed_fields    INTEGER NOT NULL DEFAULT 0, -- reserved: 1 if fields of the payload are encrypted
    event_type           TEXT NOT NULL,
    payload              TEXT NOT NULL,              -- the event's own fields
    causation_id         BLOB,
    actor_id             TEXT,
    attributes           TEXT,                       -- JSON as it was given; null when nothing is attached
    original_recorded_at INTEGER,                    -- of an imported event: when the store it comes from recorded it
    tags                 TEXT,                       -- reserved, a JSON array: what a decision reads beside streams
    CONSTRAINT eventbus_events_stream_key UNIQUE (stream_no, version),
    CONSTRAINT eventbus_events_event_id_key UNIQUE (event_id, stream_no)
) STRICT;

-- Deleting the last event would hand its position to the next one, and every reader would miss that.
CREATE TRIGGER eventbus_events_keep_the_last BEFORE DELETE ON eventbus_events
WHEN old.position = (SELECT max(position) FROM eventbus_events)
BEGIN
    SELECT raise(ABORT, 'the last event cannot be deleted: its position would be used again');
END;

-- The event types that appends have stored.
CREATE TABLE eventbus_event_types (
    event_type     TEXT PRIMARY KEY,
    schema_version INTEGER NOT NULL, -- the highest that was appended
    first_position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: what tells this store from all others, a random UUID.
CREATE TABLE eventbus_store (
    only_row INTEGER PRIMARY KEY,
    id       BLOB NOT NULL,
    CONSTRAINT eventbus_store_is_one_row CHECK (only_row = 1)
) STRICT;
INSERT INTO eventbus_store (only_row, id)
SELECT 1, unhex(substr(digits, 1, 12) || '4' || substr(digits, 14, 3) || '8' || substr(digits, 18))
FROM (SELECT hex(randomblob(16)) AS digits);

-- How far readers of the feed have come.
CREATE TABLE eventbus_checkpoints (
    name       TEXT PRIMARY KEY,
    position   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the keepers of checkpoints note beside them, such as the event types that a projection was fed with.
CREATE TABLE eventbus_notes (
    name TEXT PRIMARY KEY,
    note TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which owner has which role. The store deletes no row: the epoch of a role only grows.
CREATE TABLE eventbus_leases (
    role       TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL, -- a lease of the future is one that the clock was set back from, and free
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The inbox: which handler has handled which event, in the transaction in which it did.
CREATE TABLE eventbus_deliveries (
    handler        TEXT NOT NULL,
    event_id       BLOB NOT NULL, -- unique within the stream that the next three columns name
    aggregate_id   TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    tenant_id      BLOB NOT NULL, -- the nil UUID is no tenant
    handled_at     INTEGER NOT NULL,
    PRIMARY KEY (handler, event_id, aggregate_id, aggregate_type, tenant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_deliveries_handled_at_idx ON eventbus_deliveries (handled_at);

-- The files in which projections are rebuilt, beside this one.
CREATE TABLE eventbus_shadows (
    name       TEXT PRIMARY KEY,
    file       TEXT NOT NULL,
    has_served INTEGER NOT NULL DEFAULT 0 -- 1 once its rows have replaced the live ones: then it is not filled further
) STRICT, WITHOUT ROWID;

-- The state of an aggregate at a version of its stream, so that a load reads only the events after it. Disposable:
-- without a row a load reads all events. No foreign key: the rows of an archived stream may stay or go.
--
-- With a rowid: the key then is an index without the data, along which the snapshots of a fold are found.
CREATE TABLE eventbus_snapshots (
    stream_no INTEGER NOT NULL,
    fold      TEXT NOT NULL,    -- the state type that the data is of
    version   INTEGER NOT NULL, -- of the last event that the data contains
    taken_at  INTEGER NOT NULL,
    data      BLOB NOT NULL,
    PRIMARY KEY (stream_no, fold)
) STRICT;

-- The unique values that streams hold, such as email addresses. A row goes when its stream gives the value back.
CREATE TABLE eventbus_unique_values (
    value     TEXT NOT NULL,
    scope     TEXT NOT NULL,    -- aggregate type and name: `User.email`
    tenant_id BLOB NOT NULL,    -- the nil UUID is no tenant
    stream_no INTEGER NOT NULL, -- the stream that holds it
    PRIMARY KEY (value, scope, tenant_id),
    CONSTRAINT eventbus_unique_values_stream_key UNIQUE (stream_no, scope)
) STRICT, WITHOUT ROWID;

-- The commands that took effect, by the key that their client gave them, with their answers.
CREATE TABLE eventbus_commands (
    key        TEXT NOT NULL,
    tenant_id  BLOB NOT NULL, -- the nil UUID is no tenant
    request    BLOB NOT NULL, -- a fingerprint of what was commanded
    answer     TEXT NOT NULL,
    handled_at INTEGER NOT NULL,
    PRIMARY KEY (key, tenant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_commands_handled_at_idx ON eventbus_commands (handled_at);

-- The tags of events, each with the number of its events. An append that depends on tags takes effect only if the numbers
-- are those that its caller saw.
CREATE TABLE eventbus_tags (
    tag_no    INTEGER PRIMARY KEY,
    tag       TEXT NOT NULL, -- name and value: `course:c1`
    tenant_id BLOB NOT NULL, -- the nil UUID is no tenant
    counts    TEXT NOT NULL, -- a JSON object: how many events of each type have the tag
    CONSTRAINT eventbus_tags_identity_key UNIQUE (tag, tenant_id)
) STRICT;

-- Without its row a tag's number would be used again, and its events would belong to the next tag; and its counts would
-- begin anew, so that an append could depend on events that its caller has not seen.
CREATE TRIGGER eventbus_tags_keep_rows BEFORE DELETE ON eventbus_tags
BEGIN
    SELECT raise(ABORT, 'a tag cannot be deleted: its number would be used again, and its counts would begin anew');
END;

-- Which events have which tag: the index of `eventbus_events.tags`.
CREATE TABLE eventbus_tagged_events (
    tag_no   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (tag_no, position)
) STRICT, WITHOUT ROWID;

-- The handlers that processes declared or operators created.
CREATE TABLE eventbus_handlers (
    name TEXT PRIMARY KEY,
    note TEXT NOT NULL -- JSON: its group, the number of its shards, its types and their lists
) STRICT, WITHOUT ROWID;

-- Who owns each shard of a handler, and how far it has come. A `look` reads only the columns before `checkpoint`.
CREATE TABLE eventbus_handler_shards (
    handler    TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    owner      TEXT,                       -- null after a release
    epoch      INTEGER NOT NULL DEFAULT 0, -- the number of ownerships
    changes    INTEGER NOT NULL DEFAULT 0, -- by operators
    unclean    INTEGER NOT NULL DEFAULT 0, -- owners in a row that ended without progress
    checkpoint INTEGER NOT NULL,           -- the highest event that was started
    waiting    TEXT NOT NULL DEFAULT '[]', -- JSON: the events up to there that have not started
    started    TEXT NOT NULL DEFAULT '[]', -- JSON: the events that ran at the last save
    left_types TEXT NOT NULL DEFAULT '{}', -- JSON: from where the types count that the checkpoint does not count for
    PRIMARY KEY (handler, shard)
) STRICT, WITHOUT ROWID;

-- The events that failed, are dead letters, or are suspected of ending their process.
CREATE TABLE eventbus_handler_rows (
    handler    TEXT NOT NULL,
    position   INTEGER NOT NULL, -- of the event
    shard      INTEGER NOT NULL,
    attempts   TEXT NOT NULL,    -- JSON
    dead_since INTEGER,          -- null while it waits
    is_held    INTEGER NOT NULL, -- 1 if later events of its stream wait for a dead letter
    PRIMARY KEY (handler, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_handler_rows_dead_idx
ON eventbus_handler_rows (dead_since, position, handler) WHERE dead_since IS NOT NULL;

-- The processes that run handlers, each with the lock that it holds while it lives.
CREATE TABLE eventbus_handler_members (
    name     TEXT PRIMARY KEY,
    lock_id  TEXT NOT NULL, -- the lock is on the file `<this file>.<lock_id>.member`
    handlers TEXT NOT NULL  -- JSON: the number of the list of types of each, and its crate
) STRICT, WITHOUT ROWID;

CREATE TABLE eventbus_paused_groups (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
