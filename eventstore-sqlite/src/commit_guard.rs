//! A connection for a user that must not commit.
//!
//! Invariant: while it is sealed, no statement commits, neither a `COMMIT` of the user nor a statement after a
//! `ROLLBACK` of the user; and the connection records that its transaction was rolled back.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rusqlite::Connection;

use crate::append::execute;

/// A connection that is sealed during the transaction of a user.
///
/// | state | event | next state |
/// |---|---|---|
/// | unsealed | [`begin`](Self::begin) | sealed: the commit hook refuses every commit |
/// | sealed | the user runs `COMMIT` | over: SQLite rolls back instead |
/// | sealed | the user or SQLite rolls back | over |
/// | over | the user runs a statement that writes | over: it cannot commit by itself |
/// | sealed | [`commit`](Self::commit) | unsealed |
/// | sealed, over | [`reset`](Self::reset) | unsealed, without a transaction |
pub(crate) struct GuardedConnection {
    connection: Connection,
    state: Arc<GuardState>,
}

#[derive(Default)]
struct GuardState {
    is_commit_blocked: AtomicBool,
    is_rolled_back: AtomicBool,
}

impl GuardedConnection {
    pub(crate) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let state = Arc::<GuardState>::default();
        let (at_commit, at_rollback) = (Arc::clone(&state), Arc::clone(&state));
        connection.commit_hook(Some(move || at_commit.is_commit_blocked.load(Relaxed)))?;
        connection.rollback_hook(Some(move || at_rollback.is_rolled_back.store(true, Relaxed)))?;
        Ok(Self { connection, state })
    }

    /// Begins a transaction that only [`commit`](Self::commit) can commit.
    pub(crate) fn begin(&self) -> rusqlite::Result<()> {
        execute(&self.connection, "BEGIN IMMEDIATE")?;
        self.state.is_rolled_back.store(false, Relaxed);
        self.state.is_commit_blocked.store(true, Relaxed);
        Ok(())
    }

    pub(crate) fn is_transaction_over(&self) -> bool {
        self.state.is_rolled_back.load(Relaxed) || self.connection.is_autocommit()
    }

    pub(crate) fn commit(&self) -> rusqlite::Result<()> {
        self.state.is_commit_blocked.store(false, Relaxed);
        execute(&self.connection, "COMMIT")
    }

    /// Rolls back, and unseals the connection.
    pub(crate) fn reset(&self) {
        roll_back(&self.connection);
        self.state.is_commit_blocked.store(false, Relaxed);
    }
}

impl Deref for GuardedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

pub(crate) fn roll_back(connection: &Connection) {
    // if it fails, the next `BEGIN` returns the reason
    if !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK");
    }
}
