-- What the keepers of checkpoints note beside them, such as the event types that a projection was fed with.
CREATE TABLE eventbus_notes (
    name TEXT PRIMARY KEY,
    note TEXT NOT NULL
) STRICT, WITHOUT ROWID;
