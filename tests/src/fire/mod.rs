//! The fire suite: checks the promises of the project while servers, processes and connections fail.
//!
//! Each part makes a load and its faults, records what happened, and lets the [`auditor`] compare the records with the
//! final contents of the store. `tests/fire.rs` runs the parts briefly, the program `fire` for any length.
//!
//! Invariant: production code has no part in this. A process that dies at a named point dies in a wrapper around a
//! port.

pub mod auditor;
pub mod commands;
pub mod consumer_crashes;
pub mod database;
pub mod decisions;
pub mod evidence;
pub mod failpoints;
pub mod faults;
pub mod follower;
pub mod history;
pub mod kills;
mod members;
pub mod metered;
pub mod model;
pub mod network_faults;
pub mod place;
pub mod processes;
pub mod proxy;
pub mod race;
pub mod reactions;
pub mod releases;
pub mod role;
pub mod run_summary;
mod runs;
#[cfg(unix)]
pub mod sqlite_files;
pub mod stuck_handlers;
pub mod unique_values;
pub mod workload;

/// An error of the test itself, such as a server that does not start.
pub type HarnessError = eventbus::BoxError;
