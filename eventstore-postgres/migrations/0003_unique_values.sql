-- The unique values that streams hold, such as email addresses. A row stays when its stream gives the value back: the
-- next stream that takes the value has a row to lock.
--
-- A table of its own: an index that finds the value of a stream would make each update of a stream's row touch all
-- indexes of `streams`, if the values were rows of that table.
CREATE TABLE IF NOT EXISTS {schema}.unique_values (
    tenant_id uuid             NOT NULL, -- the nil UUID is no tenant
    stream_no bigint           NOT NULL, -- the stream that holds it; 0: none
    value     text COLLATE "C" NOT NULL,
    scope     text COLLATE "C" NOT NULL, -- aggregate type and name: `User.email`
    CONSTRAINT unique_values_pkey PRIMARY KEY (value, scope, tenant_id)
);
CREATE INDEX IF NOT EXISTS unique_values_stream_idx ON {schema}.unique_values (stream_no, scope);
