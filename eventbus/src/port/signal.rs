//! The signal for new events in a store, within one process.

use tokio::sync::watch;

/// Wakes the readers of a feed, within one process, when events were appended. Signals coalesce.
///
/// It only wakes: readers get the events from the feed, and a lost signal costs one polling interval.
#[derive(Debug, Default)]
pub struct AppendSignal(watch::Sender<()>);

impl AppendSignal {
    /// Wakes all readers that watch.
    pub fn notify(&self) {
        self.0.send_replace(());
    }

    /// Returns a watch for the signals from now on.
    #[must_use]
    pub fn watch(&self) -> AppendWatch {
        AppendWatch(self.0.subscribe())
    }
}

/// One reader's view of an [`AppendSignal`].
#[derive(Debug, Clone)]
pub struct AppendWatch(watch::Receiver<()>);

impl AppendWatch {
    /// Waits for the next signal since the last call; returns at once if there was one meanwhile.
    ///
    /// Waits for ever once the store is dropped.
    pub async fn appended(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
