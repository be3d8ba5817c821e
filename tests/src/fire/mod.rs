//! Proof under fire: what is promised is checked while servers, processes and connections die.
//!
//! Each part brings a load and its faults, notes what happened, and lets the [`auditor`] compare that with what the
//! store holds in the end. `tests/fire.rs` runs them short, the program `fire` as long as one likes.
//!
//! Keep: production code knows nothing of this. What dies at a named point dies in a wrapper around a port.

pub mod auditor;
pub mod consumer_crashes;
pub mod database;
pub mod evidence;
pub mod failpoints;
pub mod faults;
pub mod follower;
pub mod history;
pub mod kills;
pub mod model;
pub mod network_faults;
pub mod proxy;
pub mod race;
pub mod rolling;
pub mod run_summary;
#[cfg(unix)]
pub mod sqlite_files;
pub mod stuck_handlers;
pub mod unfinished_deliveries;
pub mod workload;

/// What went wrong with the test itself, a server that does not start for example.
pub type HarnessError = eventbus::BoxError;
