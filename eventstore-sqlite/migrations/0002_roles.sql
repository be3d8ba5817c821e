-- What tells this store from all others: a random UUID.
CREATE TABLE eventbus_store (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    id       BLOB NOT NULL
) STRICT;

INSERT INTO eventbus_store (only_row, id)
SELECT 1, unhex(substr(digits, 1, 12) || '4' || substr(digits, 14, 3) || '8' || substr(digits, 18))
FROM (SELECT hex(randomblob(16)) AS digits);

-- Who has which role. A row is never deleted: epochs must grow.
CREATE TABLE eventbus_leases (
    role    TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    ends_at INTEGER NOT NULL -- milliseconds since 1970 by the clock of the machine
) STRICT, WITHOUT ROWID;

-- How far the consumer groups of a bus have finished.
CREATE TABLE eventbus_floors (
    destination    TEXT NOT NULL,
    consumer_group TEXT NOT NULL,
    position       INTEGER NOT NULL,
    PRIMARY KEY (destination, consumer_group)
) STRICT, WITHOUT ROWID;

-- What transactional handlers have done already.
CREATE TABLE eventbus_deliveries (
    handler    TEXT NOT NULL,
    event_id   BLOB NOT NULL,
    handled_at INTEGER NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (handler, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX eventbus_deliveries_by_age ON eventbus_deliveries (handled_at);

-- The files in which projections are rebuilt, beside this one.
CREATE TABLE eventbus_shadows (
    name TEXT PRIMARY KEY,
    file TEXT NOT NULL
) STRICT, WITHOUT ROWID;
