-- What the keepers of checkpoints note beside them, such as the event types that a projection was fed with.
CREATE TABLE IF NOT EXISTS {schema}.notes (
    name text COLLATE "C" PRIMARY KEY,
    note text             NOT NULL
);
