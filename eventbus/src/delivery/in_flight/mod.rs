//! In-flight entries of one consumer: read from the bus, not yet acknowledged; and the workers that handle them.
//!
//! A bus adds entries with [`InFlight::add`], runs [`run_workers`] in a task, persists the dispositions
//! ([`InFlight::disposed`]), and then removes the entries ([`InFlight::release`]). Of entries that wait for a retry,
//! and of those blocked behind them, only ids, ordering keys and times stay in memory: the bus reads them again when
//! they are due ([`InFlight::due`]).
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
pub use entry::{DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_WAITING, DisposedEntry, Disposition, DueEntry, InFlightEntry};
pub use group_context::GroupContext;
pub(crate) use state::memory_of;
pub use suspects::{SuspectLock, SuspectPermit};
pub use workers::run_workers;
