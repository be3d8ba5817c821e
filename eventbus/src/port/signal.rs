//! The signal for new events in a store, within one process.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::recent_appends::RecentAppends;
use crate::domain::record::RecordedEvent;

/// Wakes the readers of a feed, within one process, when events were appended. Signals coalesce.
///
/// A lost signal costs one polling interval, which is longer while the signal [hears all
/// processes](Self::set_hears_all).
#[derive(Debug, Default)]
pub struct AppendSignal {
    /// Set while it hears all processes.
    appended: watch::Sender<bool>,
    begun: watch::Sender<()>,
    left: watch::Sender<()>,
    /// The number of signals that came without their events.
    unknown: AtomicU64,
    /// The number of moments at which the store may have been replaced by an older copy.
    possible_restores: AtomicU64,
    recent: RecentAppends,
}

impl AppendSignal {
    /// Wakes all readers that watch: they ask the store for the events.
    pub fn notify(&self) {
        self.unknown.fetch_add(1, Ordering::AcqRel);
        self.appended.send_modify(|_| {});
    }

    /// Wakes all readers that watch, as [`notify`](Self::notify) does, and passes them the events: if these directly
    /// follow the last known event, an app publishes them without a query.
    ///
    /// A store calls it after it has committed the events, with the records that it also returns to its caller.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{Name, NewEvent, StreamId, Version, port::AppendSignal};
    /// # let signal = AppendSignal::default();
    /// # let stream = StreamId::parse("Order", "1")?;
    /// let event = NewEvent::new(Name::from_static("Placed"), 1, "{}");
    /// let stored = event.recorded_as(stream, Version::FIRST, Some(7.into()));
    /// signal.notify_of([&stored]);
    /// # Ok::<(), eventbus::Error>(())
    /// ```
    pub fn notify_of<'e>(&self, appended: impl IntoIterator<Item = &'e RecordedEvent>) {
        self.recent.add(appended);
        self.appended.send_modify(|_| {});
    }

    /// The latest events of [`notify_of`](Self::notify_of).
    pub(crate) fn recent(&self) -> &RecentAppends {
        &self.recent
    }

    /// Returns the number of signals so far after which only the store knows the end of the feed.
    pub(crate) fn unknown_appends(&self) -> u64 {
        self.unknown.load(Ordering::Acquire)
    }

    /// Tells readers to poll: a transaction that has appended is still
    /// [open](super::feed_end::FeedEnd::has_open_appends), and its commit may not be signalled. They poll often until
    /// it ends.
    pub fn notify_begun(&self) {
        self.unknown.fetch_add(1, Ordering::AcqRel);
        self.begun.send_replace(());
    }

    /// Tells the apps of this process that a process with handlers has [left](super::HandlerProgress::leave): they take
    /// its shards over at once. Without this signal they do at their next heartbeat, within a second.
    ///
    /// # Examples
    /// ```
    /// let signal = eventbus::port::AppendSignal::default();
    /// signal.notify_left(); // the server has announced it
    /// ```
    pub fn notify_left(&self) {
        self.left.send_replace(());
    }

    /// Sets whether the store learns of appends by other processes, and calls [`notify`](Self::notify) for them too;
    /// `false` at first. Wakes all readers that watch: they may have missed an append, or a new connection may lead to
    /// an [older copy](Self::note_possible_restore).
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
        self.note_possible_restore();
        self.appended.send_replace(hears_all);
    }

    /// Notes that an older copy may have replaced the store: it is reached over a new connection, or lacks events that
    /// it had acknowledged. The relay then checks that the store has the last published events before it publishes
    /// more, and the store drops what it has cached of its data. Wakes no reader.
    ///
    /// A store that reconnects within its calls must call it before it returns the first answer over the new
    /// connection. After a failed call, or an answer with a lower head, the relay checks by itself.
    ///
    /// # Examples
    /// ```
    /// # let store = eventbus::InMemoryEventStore::new();
    /// use eventbus::port::ReadFeed;
    /// store.appended().note_possible_restore();
    /// ```
    pub fn note_possible_restore(&self) {
        self.unknown.fetch_add(1, Ordering::AcqRel);
        self.recent.clear();
        // last: a reader that sees the new number finds no event from before
        self.possible_restores.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the number of moments so far at which an older copy may have replaced the store. A store compares it
    /// with the number at which it cached data.
    ///
    /// # Examples
    /// ```
    /// let signal = eventbus::port::AppendSignal::default();
    /// let remembered_at = signal.possible_restores();
    /// signal.note_possible_restore();
    /// assert_ne!(signal.possible_restores(), remembered_at);
    /// ```
    #[must_use]
    pub fn possible_restores(&self) -> u64 {
        self.possible_restores.load(Ordering::Acquire)
    }

    /// Returns a watch for the signals from now on.
    #[must_use]
    pub fn watch(&self) -> AppendWatch {
        let (appended, begun, left) = (self.appended.subscribe(), self.begun.subscribe(), self.left.subscribe());
        AppendWatch { appended, begun, left }
    }
}

/// One reader's view of an [`AppendSignal`].
#[derive(Debug, Clone)]
pub struct AppendWatch {
    appended: watch::Receiver<bool>,
    begun: watch::Receiver<()>,
    left: watch::Receiver<()>,
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

    /// Waits for the next process that [leaves](AppendSignal::notify_left) since the last call, as
    /// [`appended`](Self::appended) does for events.
    pub async fn left(&mut self) {
        if self.left.changed().await.is_err() {
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
