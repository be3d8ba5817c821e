-- What groups of the in-process bus have not finished although their checkpoints may have passed it.
CREATE TABLE eventbus_unfinished_deliveries (
    consumer_group TEXT NOT NULL,
    position       INTEGER NOT NULL, -- of the event
    tries          TEXT NOT NULL,    -- JSON: what its handlers made of it so far
    dead_since     INTEGER,          -- microseconds since 1970; null while it waits
    PRIMARY KEY (consumer_group, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX eventbus_unfinished_deliveries_dead
ON eventbus_unfinished_deliveries (dead_since, position, consumer_group) WHERE dead_since IS NOT NULL;
