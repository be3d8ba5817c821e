//! What can be chosen when a store is opened.

use std::time::Duration;

use eventbus::SharedClock;

use crate::error::SqliteConnectError;

/// How a store is opened; the defaults are right for most.
///
/// # Examples
/// ```
/// use eventstore_sqlite::{SqliteEventStoreConfig, Synchronous};
/// let config = SqliteEventStoreConfig { synchronous: Synchronous::Normal, ..Default::default() };
/// assert_eq!(config.readers, 4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteEventStoreConfig {
    /// What an append that returned `Ok` survives. Default: [`Synchronous::Full`].
    pub synchronous: Synchronous,
    /// How long a call waits while another process writes, before it fails as unavailable. Default: 5 seconds.
    pub busy_timeout: Duration,
    /// How many pages are read at the same time, each on a connection of its own; from 1. Default: 4.
    pub readers: usize,
    /// How many appends may wait for their turn; the next ones wait until there is room, from 1. Default: 4,096.
    pub queued_appends: usize,
    /// How long a transaction of a handler or projection may be open, before it is rolled back because all appends of
    /// this process wait for it. Default: 5 seconds.
    pub transaction_timeout: Duration,
    /// Whether the file is made if it is missing. Default: true.
    pub create_if_missing: bool,
    /// Whether the store may be made in a database that holds tables of someone else already. Default: false, so that
    /// a wrong path does no harm. Tables that are added after the store was made need no permission.
    pub share_database: bool,
    /// By which clock events are recorded; waits for other processes, and leases, go by the machine's, which all that share
    /// a file have. Default: the machine's.
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
            share_database: false,
            clock: SharedClock::SYSTEM,
        }
    }
}

/// What an append that returned `Ok` survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Power failure and everything less: each commit waits for the disk.
    #[default]
    Full,
    /// The death of the process, but not a power failure, which may take the last appends back. About five times
    /// faster for a lone caller.
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
            return fault("`readers` is 0; without one nothing can be read");
        }
        if self.queued_appends == 0 {
            return fault("`queued_appends` is 0; without room for one nothing can be appended");
        }
        if self.transaction_timeout.is_zero() {
            return fault("`transaction_timeout` is 0; every transaction would be rolled back");
        }
        if i32::try_from(self.busy_timeout.as_millis()).is_err() {
            return fault("`busy_timeout` is longer than 24 days, SQLite's limit");
        }
        Ok(())
    }
}
