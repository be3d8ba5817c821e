-- How many events of each type have a tag. An append locks the rows of its tags, judges its condition by what they
-- count, and adds its own events. No row is deleted and no count shrinks, also when events are taken out: a condition
-- whose count is passed once is passed for ever.
CREATE SEQUENCE IF NOT EXISTS {schema}.tags_tag_no_seq AS bigint NO CYCLE;

-- 70 % keeps the updates of a row on the same page.
CREATE TABLE IF NOT EXISTS {schema}.tags (
    tag_no    bigint           NOT NULL DEFAULT nextval('{schema}.tags_tag_no_seq'),
    tenant_id uuid             NOT NULL, -- the nil UUID is no tenant
    tag       text COLLATE "C" NOT NULL, -- name and value: `course:c1`
    counts    jsonb            NOT NULL, -- the number of events by type: {"Enrolled": 12}
    CONSTRAINT tags_pkey PRIMARY KEY (tag_no),
    CONSTRAINT tags_identity_key UNIQUE (tag, tenant_id)
) WITH (fillfactor = 70);

ALTER SEQUENCE {schema}.tags_tag_no_seq OWNED BY {schema}.tags.tag_no;

-- The index of `events.tags`, which are the truth: the events of a tag in the order of their positions. An event that was
-- taken out leaves its rows.
CREATE TABLE IF NOT EXISTS {schema}.tagged_events (
    tag_no   bigint NOT NULL,
    position bigint NOT NULL, -- of the event
    CONSTRAINT tagged_events_pkey PRIMARY KEY (tag_no, position)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);
