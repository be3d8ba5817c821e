-- The unique values that streams hold, such as email addresses. A row goes when its stream gives the value back.
CREATE TABLE eventbus_unique_values (
    value     TEXT NOT NULL,
    scope     TEXT NOT NULL,    -- aggregate type and name: `User.email`
    tenant_id BLOB NOT NULL,    -- the nil UUID is no tenant
    stream_no INTEGER NOT NULL, -- the stream that holds it
    PRIMARY KEY (value, scope, tenant_id),
    CONSTRAINT eventbus_unique_values_stream_key UNIQUE (stream_no, scope)
) STRICT, WITHOUT ROWID;
