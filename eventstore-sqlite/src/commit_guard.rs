//! A connection that can be lent to someone who must not commit.
//!
//! Keep: while it is sealed nothing commits, neither a `COMMIT` by hand nor a statement after a `ROLLBACK` by hand, and a
//! transaction that was rolled back under its user is known to be broken.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rusqlite::Connection;

use crate::append::execute;

/// A connection, and whether it may commit.
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

    /// Whether the transaction that was begun is over.
    pub(crate) fn is_transaction_over(&self) -> bool {
        self.state.is_rolled_back.load(Relaxed) || self.connection.is_autocommit()
    }

    pub(crate) fn commit(&self) -> rusqlite::Result<()> {
        self.state.is_commit_blocked.store(false, Relaxed);
        execute(&self.connection, "COMMIT")
    }

    /// Makes it as it was before a transaction.
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
    // if it fails, the next BEGIN says why
    if !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK");
    }
}
