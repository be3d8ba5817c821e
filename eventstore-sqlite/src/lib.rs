//! The SQLite event store of eventbus, its embedded default.
