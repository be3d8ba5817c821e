-- The state of an aggregate at a version of its stream, so that a load reads only the events after it. Disposable:
-- without a row a load reads all events. No foreign key: the rows of an archived stream may stay or go, and no saver
-- waits for an append. 70 % keeps updates of small rows on the same page.
CREATE TABLE IF NOT EXISTS {schema}.snapshots (
    stream_no bigint           NOT NULL,
    version   bigint           NOT NULL, -- of the last event that the data contains
    taken_at  timestamptz      NOT NULL,
    fold      text COLLATE "C" NOT NULL, -- the state type that the data is of
    data      bytea            NOT NULL,
    CONSTRAINT snapshots_pkey PRIMARY KEY (stream_no, fold)
) WITH (fillfactor = 70);

-- lz4 costs a tenth of the processor time of the default; servers before 14, or built without it, keep the default.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE {schema}.snapshots ALTER data SET COMPRESSION lz4';
EXCEPTION WHEN syntax_error OR feature_not_supported THEN
    NULL;
END
$$;
