-- Events in commit order, which is position order: SQLite has one writer at a time.
-- Without AUTOINCREMENT (20 % slower) a position is one more than the highest, hence the trigger below.
CREATE TABLE eventbus_events (
    position       INTEGER PRIMARY KEY,
    version        INTEGER NOT NULL,
    occurred_at    INTEGER NOT NULL, -- microseconds since 1970, UTC
    event_id       BLOB NOT NULL,    -- ids are the 16 bytes of a UUID
    schema_version INTEGER NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id   TEXT NOT NULL,
    event_type     TEXT NOT NULL,
    payload        TEXT NOT NULL,    -- the event's own fields, JSON as it was given
    correlation_id BLOB NOT NULL,
    causation_id   BLOB,
    tenant_id      BLOB,
    actor_id       TEXT,
    attributes     TEXT,             -- JSON as it was given; null when nothing is attached
    UNIQUE (aggregate_id, aggregate_type, version),
    UNIQUE (event_id)
) STRICT;

-- Deleting the last event would hand its position to the next one, and every reader would miss that.
CREATE TRIGGER eventbus_events_keep_the_last BEFORE DELETE ON eventbus_events
WHEN old.position = (SELECT max(position) FROM eventbus_events)
BEGIN
    SELECT raise(ABORT, 'the last event cannot be deleted: its position would be used again');
END;

CREATE TABLE eventbus_checkpoints (
    name     TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
