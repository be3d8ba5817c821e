-- In the file of the copies: the definition of their tables, and the position up to which they are filled.
CREATE TABLE IF NOT EXISTS main.eventbus_shadow (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    definition TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS main.eventbus_shadow_checkpoints (
    name     TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    epoch    INTEGER NOT NULL -- of the lease under which it was moved last: a lower one is a former owner's
) STRICT, WITHOUT ROWID
