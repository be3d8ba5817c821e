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
