-- The event types that appends have stored. Empty after the migration: nothing is known of what former releases stored.
CREATE TABLE eventbus_event_types (
    event_type     TEXT PRIMARY KEY,
    schema_version INTEGER NOT NULL, -- the highest that was appended
    first_position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
