-- What delivery keeps beside the events: who has which role, how far buses have come, and what was handled already.

-- One row: what tells this store from all others, also once it is restored elsewhere.
CREATE TABLE IF NOT EXISTS {schema}.store (
    id uuid NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS store_is_one_row ON {schema}.store ((true));
INSERT INTO {schema}.store (id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING;

-- Rows are never deleted: the epoch of a role only grows.
CREATE TABLE IF NOT EXISTS {schema}.leases (
    role       text COLLATE "C" PRIMARY KEY,
    owner      text COLLATE "C" NOT NULL,
    epoch      bigint           NOT NULL,
    expires_at timestamptz      NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {schema}.floors (
    destination text COLLATE "C" NOT NULL,
    "group"     text COLLATE "C" NOT NULL,
    position    bigint           NOT NULL,
    PRIMARY KEY (destination, "group")
);

-- The inbox: which handler has handled which event, in the transaction in which it did.
CREATE TABLE IF NOT EXISTS {schema}.deliveries (
    event_id   uuid             NOT NULL,
    handled_at timestamptz      NOT NULL DEFAULT now(),
    handler    text COLLATE "C" NOT NULL,
    PRIMARY KEY (handler, event_id)
);
CREATE INDEX IF NOT EXISTS deliveries_handled_at_idx ON {schema}.deliveries (handled_at);
