CREATE TABLE IF NOT EXISTS {schema}.migrations (
    version    integer     NOT NULL,
    name       text        NOT NULL,
    kind       text        NOT NULL, -- additive: releases that do not know it go on; breaking: they refuse
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT migrations_pkey PRIMARY KEY (version)
)
