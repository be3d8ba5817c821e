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

-- Events in commit order, which is position order: SQLite has one writer at a time. Checkpoints, floors and the relay's
-- published position are numbers of this one order, so it stays one per store, not one per tenant or stream.
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

-- How far the consumer groups of a bus have finished.
CREATE TABLE eventbus_floors (
    destination    TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    position       INTEGER NOT NULL,
    PRIMARY KEY (destination, consumer_group)
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

-- What groups of the in-process bus have not finished although their checkpoints may have passed it.
CREATE TABLE eventbus_unfinished_deliveries (
    consumer_group TEXT NOT NULL,
    position       INTEGER NOT NULL, -- of the event
    attempts       TEXT NOT NULL,    -- JSON: the attempts of its handlers so far
    dead_since     INTEGER,          -- null while it waits
    PRIMARY KEY (consumer_group, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_unfinished_deliveries_dead_idx
ON eventbus_unfinished_deliveries (dead_since, position, consumer_group) WHERE dead_since IS NOT NULL;

-- The files in which projections are rebuilt, beside this one.
CREATE TABLE eventbus_shadows (
    name       TEXT PRIMARY KEY,
    file       TEXT NOT NULL,
    has_served INTEGER NOT NULL DEFAULT 0 -- 1 once its rows have replaced the live ones: then it is not filled further
) STRICT, WITHOUT ROWID;
