//! The gate between the writers and the counters of dead letters.

use tokio::sync::{Notify, RwLock, RwLockReadGuard};

/// Orders the counting of dead letters after their writing, and wakes the task that copies them to the store.
///
/// Invariant: a writer holds the gate until its dead letter is counted, so a count after
/// [`wait_for_writers`](Self::wait_for_writers) has each dead letter that is no longer pending.
#[derive(Default)]
pub(crate) struct DeadLetterGate {
    /// Writers share it; a count takes it alone.
    lock: RwLock<()>,
    signal: Notify,
}

impl DeadLetterGate {
    /// Begins writing dead letters; the writer keeps the guard until they are counted.
    pub(crate) async fn begin_write(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read().await
    }

    /// Waits until the running writers have counted their dead letters.
    pub(crate) async fn wait_for_writers(&self) {
        drop(self.lock.write().await);
    }

    /// Wakes the task that copies dead letters to the store.
    pub(crate) fn notify(&self) {
        self.signal.notify_one();
    }

    /// Waits for a dead letter to copy.
    pub(crate) async fn written(&self) {
        self.signal.notified().await;
    }
}
