-- What groups of the in-process bus have not finished although their checkpoints may have passed it.
CREATE TABLE IF NOT EXISTS {schema}.unfinished_deliveries (
    "group"    text COLLATE "C" NOT NULL,
    position   bigint           NOT NULL, -- of the event
    tries      text             NOT NULL, -- JSON: what its handlers made of it so far
    dead_since timestamptz,               -- null while it waits
    PRIMARY KEY ("group", position)
);

CREATE INDEX IF NOT EXISTS unfinished_deliveries_dead_idx
ON {schema}.unfinished_deliveries (dead_since, position, "group") WHERE dead_since IS NOT NULL;
