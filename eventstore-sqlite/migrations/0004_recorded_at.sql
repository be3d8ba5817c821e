-- When an event was appended, by the clock of the process that did; null in events of a former release.
ALTER TABLE eventbus_events ADD COLUMN recorded_at INTEGER; -- microseconds since 1970, UTC
