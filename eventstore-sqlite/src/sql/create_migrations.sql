CREATE TABLE IF NOT EXISTS eventbus_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL, -- additive: releases that do not know it go on; breaking: they refuse
    applied_at INTEGER NOT NULL DEFAULT (CAST(round(unixepoch('subsec') * 1e6) AS INTEGER))
) STRICT
