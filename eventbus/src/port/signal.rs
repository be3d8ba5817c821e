//! "Something was appended", within one process.

use tokio::sync::watch;

/// Tells the readers of a feed, within one process, that something was appended. Signals coalesce.
///
/// It only wakes: what was appended is read from the feed, and a lost signal costs one polling interval.
#[derive(Debug)]
pub struct AppendSignal(watch::Sender<()>);

impl Default for AppendSignal {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl AppendSignal {
    /// Wakes everyone who watches.
    pub fn notify(&self) {
        self.0.send_replace(());
    }

    /// Watches from now on.
    #[must_use]
    pub fn watch(&self) -> AppendWatch {
        AppendWatch(self.0.subscribe())
    }
}

/// One reader's view of an [`AppendSignal`].
#[derive(Debug, Clone)]
pub struct AppendWatch(watch::Receiver<()>);

impl AppendWatch {
    /// Waits for the next signal since the last call; at once if there was one meanwhile.
    ///
    /// Waits for ever once the store is gone.
    pub async fn appended(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
