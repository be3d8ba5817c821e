-- The event types that appends have stored. Empty after the migration: nothing is known of what former releases stored.
--
-- Rows are only added, and never one that is there: so nobody who appends waits here for another, however long a
-- transaction is open that stored the first event of a type. Of the rows of a type the highest version and the lowest
-- position count; there are more than one if first appends raced, or a higher version came.
CREATE TABLE IF NOT EXISTS {schema}.event_types (
    event_type     text COLLATE "C" NOT NULL,
    schema_version integer          NOT NULL,
    position       bigint           NOT NULL,
    PRIMARY KEY (event_type, schema_version, position)
);
