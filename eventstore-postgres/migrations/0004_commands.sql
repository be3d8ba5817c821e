-- The commands that took effect, by the key that their client gave them, with their answers.
CREATE TABLE IF NOT EXISTS {schema}.commands (
    request    uuid             NOT NULL, -- a fingerprint of what was commanded
    tenant_id  uuid             NOT NULL, -- the nil UUID is no tenant
    handled_at timestamptz      NOT NULL DEFAULT clock_timestamp(),
    key        text COLLATE "C" NOT NULL,
    answer     text             NOT NULL,
    CONSTRAINT commands_pkey PRIMARY KEY (key, tenant_id)
);
CREATE INDEX IF NOT EXISTS commands_handled_at_idx ON {schema}.commands (handled_at);
