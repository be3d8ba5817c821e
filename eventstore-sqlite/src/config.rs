//! The configuration of a store.

use std::time::Duration;

use eventbus::clock::SharedClock;

use crate::error::SqliteConnectError;

/// Configuration of a store; the defaults are right for most applications.
///
/// # Examples
/// ```
/// use eventstore_sqlite::{SqliteEventStoreConfig, Synchronous};
/// let config = SqliteEventStoreConfig { synchronous: Synchronous::Normal, ..Default::default() };
/// assert_eq!(config.readers, 4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteEventStoreConfig {
    /// The failures that an append survives once it has returned `Ok`. Default: [`Synchronous::Full`].
    pub synchronous: Synchronous,
    /// Time that a call waits while a different process writes, before it fails as unavailable. Default: 5 seconds.
    pub busy_timeout: Duration,
    /// Maximum number of concurrent page reads, each on a connection of its own; from 1. Default: 4. At most half of
    /// them, and at least one, are [queries](crate::SqliteEventStore::read) of the application.
    pub readers: usize,
    /// Maximum number of queued appends, from 1; further ones wait until there is room. Default: 4,096.
    pub queued_appends: usize,
    /// Time after which the store rolls back an open transaction of a handler or projection, because all appends of
    /// this process wait for it; the `set_up` of a projection has no limit. Default: 5 seconds.
    pub transaction_timeout: Duration,
    /// Set if the store creates a missing file; it does so only if [`migrate`](Self::migrate) is set too. Default:
    /// true.
    pub create_if_missing: bool,
    /// Set if opening also creates and upgrades the tables. If not, the store opens only a file with the tables of this
    /// release, and changes none of them. Default: true.
    pub migrate: bool,
    /// Set if the store may create its tables in a database that already holds tables of a different application.
    /// Default: false, so that a wrong path does no harm. Tables that are added after the store's need no permission.
    pub share_database: bool,
    /// Clock of the recording times of events. Leases, and waits for other processes, use the clock of the machine,
    /// which all processes that share a file have in common. Default: the machine's.
    pub clock: SharedClock,
}

impl Default for SqliteEventStoreConfig {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            busy_timeout: Duration::from_secs(5),
            readers: 4,
            queued_appends: 4_096,
            transaction_timeout: Duration::from_secs(5),
            create_if_missing: true,
            migrate: true,
            share_database: false,
            clock: SharedClock::SYSTEM,
        }
    }
}

/// The failures that an append survives once it has returned `Ok`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// A power failure, and the death of the process: each commit waits for the disk.
    #[default]
    Full,
    /// The death of the process. A power failure may lose the last appends. About five times faster for a single
    /// caller.
    Normal,
}

impl Synchronous {
    pub(crate) const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}

impl SqliteEventStoreConfig {
    pub(crate) fn check(&self) -> Result<(), SqliteConnectError> {
        let fault = |what| Err(SqliteConnectError::InvalidConfig { what });
        if self.readers == 0 {
            return fault("`readers` is 0; the store could not read");
        }
        if self.queued_appends == 0 {
            return fault("`queued_appends` is 0; the store could not append");
        }
        if self.transaction_timeout.is_zero() {
            return fault("`transaction_timeout` is 0; the store would roll every transaction back");
        }
        if i32::try_from(self.busy_timeout.as_millis()).is_err() {
            return fault("`busy_timeout` is longer than 24 days, SQLite's limit");
        }
        Ok(())
    }
}
