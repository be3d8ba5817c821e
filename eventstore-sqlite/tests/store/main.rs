//! The event store in an SQLite file.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;

mod boundaries;
mod cancel;
mod clock;
mod columns;
mod conformance;
mod corrupt;
mod files;
mod members;
mod missing_events;
mod open;
mod rolling;
mod shadows;
mod shared_file;
mod snapshots;
mod transactions;
