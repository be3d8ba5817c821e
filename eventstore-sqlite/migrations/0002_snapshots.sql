-- The state of an aggregate at a version of its stream, so that a load reads only the events after it. Disposable:
-- without a row a load reads all events. No foreign key: the rows of an archived stream may stay or go.
--
-- With a rowid: the key then is an index without the data, along which the snapshots of a fold are found.
CREATE TABLE eventbus_snapshots (
    stream_no INTEGER NOT NULL,
    fold      TEXT NOT NULL,    -- the state type that the data is of
    version   INTEGER NOT NULL, -- of the last event that the data contains
    taken_at  INTEGER NOT NULL,
    data      BLOB NOT NULL,
    PRIMARY KEY (stream_no, fold)
) STRICT;
