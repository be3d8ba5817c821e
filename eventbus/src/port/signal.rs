//! The signal for new events in a store, within one process.

use tokio::sync::watch;

/// Wakes the readers of a feed, within one process, when events were appended. Signals coalesce.
///
/// It only wakes: readers get the events from the feed, and a lost signal costs one polling interval, which is longer
/// while the signal [hears all processes](Self::set_hears_all).
#[derive(Debug, Default)]
pub struct AppendSignal {
    /// Set while it hears all processes.
    appended: watch::Sender<bool>,
    begun: watch::Sender<()>,
}

impl AppendSignal {
    /// Wakes all readers that watch.
    pub fn notify(&self) {
        self.appended.send_modify(|_| {});
    }

    /// Lets readers poll, because a transaction has appended that is still
    /// [open](super::feed_end::FeedEnd::has_open_appends), and whose commit may not be signalled. They poll often until
    /// it ends.
    pub fn notify_begun(&self) {
        self.begun.send_replace(());
    }

    /// Sets whether the store learns of appends by other processes, and calls [`notify`](Self::notify) for them too;
    /// `false` at first. Wakes all readers that watch: they may have missed an append.
    ///
    /// Readers poll every 250 ms. While the signal hears all processes and no append is
    /// [open](super::feed_end::FeedEnd::has_open_appends), they poll ever more slowly, down to every 5 seconds.
    ///
    /// # Examples
    /// ```
    /// let signal = eventbus::port::AppendSignal::default();
    /// let watch = signal.watch();
    /// signal.set_hears_all(true); // connected to a server that announces every append
    /// assert!(watch.hears_all());
    /// signal.set_hears_all(false); // the connection is lost
    /// assert!(!watch.hears_all());
    /// ```
    pub fn set_hears_all(&self, hears_all: bool) {
        self.appended.send_replace(hears_all);
    }

    /// Returns a watch for the signals from now on.
    #[must_use]
    pub fn watch(&self) -> AppendWatch {
        AppendWatch { appended: self.appended.subscribe(), begun: self.begun.subscribe() }
    }
}

/// One reader's view of an [`AppendSignal`].
#[derive(Debug, Clone)]
pub struct AppendWatch {
    appended: watch::Receiver<bool>,
    begun: watch::Receiver<()>,
}

impl AppendWatch {
    /// Waits for the next signal since the last call; returns at once if there was one meanwhile.
    ///
    /// Waits for ever once the store is dropped.
    pub async fn appended(&mut self) {
        if self.appended.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// As [`appended`](Self::appended), and also ends when an append has [begun](AppendSignal::notify_begun).
    pub(crate) async fn begun_or_appended(&mut self) {
        tokio::select! {
            Ok(()) = self.begun.changed() => {}
            Ok(()) = self.appended.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Returns `true` while the signal also comes for appends of other processes.
    #[must_use]
    pub fn hears_all(&self) -> bool {
        *self.appended.borrow()
    }
}
