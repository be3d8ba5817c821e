-- The tags of events, each with the number of its events. An append that depends on tags takes effect only if the numbers
-- are those that its caller saw.
CREATE TABLE eventbus_tags (
    tag_no    INTEGER PRIMARY KEY,
    tag       TEXT NOT NULL, -- name and value: `course:c1`
    tenant_id BLOB NOT NULL, -- the nil UUID is no tenant
    counts    TEXT NOT NULL, -- a JSON object: how many events of each type have the tag
    CONSTRAINT eventbus_tags_identity_key UNIQUE (tag, tenant_id)
) STRICT;

-- Without its row a tag's number would be used again, and its events would belong to the next tag; and its counts would
-- begin anew, so that an append could depend on events that its caller has not seen.
CREATE TRIGGER eventbus_tags_keep_rows BEFORE DELETE ON eventbus_tags
BEGIN
    SELECT raise(ABORT, 'a tag cannot be deleted: its number would be used again, and its counts would begin anew');
END;

-- Which events have which tag: the index of `eventbus_events.tags`.
CREATE TABLE eventbus_tagged_events (
    tag_no   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (tag_no, position)
) STRICT, WITHOUT ROWID;
