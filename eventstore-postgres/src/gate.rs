//! The gate of a store on a pool of the application, which stays open when the store closes.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// Counts the uses of the pool's connections, lets no more in once it is closed, and waits for those inside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(watch::Sender<GateState>);

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    inside: usize,
}

impl Gate {
    /// Enters until the pass is dropped.
    ///
    /// # Errors
    /// [`sqlx::Error::PoolClosed`] once the gate is closed: to callers the store's connections are gone.
    pub(crate) fn enter(&self) -> Result<GatePass, sqlx::Error> {
        let mut has_entered = false;
        // changes the count and wakes no waiter: only a dropped pass can end a wait
        self.0.send_if_modified(|state| {
            has_entered = !state.is_closed;
            state.inside += usize::from(has_entered);
            false
        });
        if has_entered { Ok(GatePass(self.0.clone())) } else { Err(sqlx::Error::PoolClosed) }
    }

    /// Closes the gate; returns `true` if all passes are dropped within `limit`.
    pub(crate) async fn close(&self, limit: Duration) -> bool {
        self.0.send_modify(|state| state.is_closed = true);
        let mut left = self.0.subscribe();
        timeout(limit, left.wait_for(|state| state.inside == 0)).await.is_ok()
    }
}

/// A use of the pool; closing the store waits for it.
#[derive(Debug)]
pub(crate) struct GatePass(watch::Sender<GateState>);

impl Drop for GatePass {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.inside -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_closed_gate_waits_for_those_inside_and_lets_no_more_in() {
        let gate = Gate::default();
        let pass = gate.enter().unwrap();
        assert!(!gate.close(Duration::ZERO).await, "one is inside");
        assert!(matches!(gate.enter(), Err(sqlx::Error::PoolClosed)));
        let (is_empty, ()) = tokio::join!(gate.close(LONG), async { drop(pass) });
        assert!(is_empty);
    }
}
