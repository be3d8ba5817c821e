//! The PostgreSQL event store of eventbus.
