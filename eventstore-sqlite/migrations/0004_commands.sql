-- The commands that took effect, by the key that their client gave them, with their answers.
CREATE TABLE eventbus_commands (
    key        TEXT NOT NULL,
    tenant_id  BLOB NOT NULL, -- the nil UUID is no tenant
    request    BLOB NOT NULL, -- a fingerprint of what was commanded
    answer     TEXT NOT NULL,
    handled_at INTEGER NOT NULL,
    PRIMARY KEY (key, tenant_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbus_commands_handled_at_idx ON eventbus_commands (handled_at);
