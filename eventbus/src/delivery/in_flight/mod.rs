//! In-flight entries of one consumer: read from the bus, not yet acknowledged; and the workers that handle them.
//!
//! A bus adds entries with [`InFlight::add`], runs [`run_workers`] in a task, persists the dispositions
//! ([`InFlight::disposed`]), and then removes the entries ([`InFlight::release`]). Entries that wait for a retry stay in
//! memory, and those blocked behind them; they take no room from others, and have limits of their own.
//!
//! Invariant: workers handle entries of one aggregate one at a time, in the order they were added, also across retries;
//! entries of other aggregates flow meanwhile.

mod entries;
mod entry;
mod group_context;
mod read_ahead;
mod state;
mod suspects;
#[cfg(test)]
mod tests;
mod workers;

pub use entries::InFlight;
pub use entry::{DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_WAITING, DisposedEntry, Disposition, InFlightEntry};
pub use group_context::GroupContext;
pub(crate) use state::memory_of;
pub use suspects::{SuspectLock, SuspectPermit};
pub use workers::run_workers;
