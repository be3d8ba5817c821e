//! What the parts of an engine share: the store, the handlers, what was read of the feed, and the requests between tasks.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};

use super::{feed_window::FeedWindow, handler_queue::HandlerQueue};
use crate::{
    domain::{
        clock::SharedClock, error::ErrorLine, metadata::EventId, name::Name, record::RecordedEvent, stream::Position,
    },
    port::{
        EventStore, HandlerProgress, ReadError,
        handler_progress::{HandlerProgressError, NotedHandler},
        stats::BusCounters,
    },
    runtime::feed_head::FeedHead,
    support::skipped_positions,
};

/// The state that the tasks of an engine share.
pub(super) struct Shared {
    feed_head: FeedHead,
    /// The name of this start of the process among the members.
    pub(super) member: Name,
    /// The duration of the leases of shards.
    pub(super) lease: Duration,
    /// The name under which operators skip events that cannot be read.
    reader: Name,
    queues: Vec<Arc<HandlerQueue>>,
    pub(super) counters: Arc<BusCounters>,
    /// What the store noted of each handler at the start.
    pub(super) noted: OnceLock<BTreeMap<Name, NotedHandler>>,
    /// Held for moments, never across a wait.
    pub(super) window: Mutex<FeedWindow>,
    /// The last event of the feed that was read; held for moments.
    last_read: Mutex<Option<(Position, EventId)>>,
    /// Why the feed cannot be read at the moment; held for moments.
    feed_error: Mutex<Option<String>>,
    /// A run holds it shared, an event that runs alone exclusively.
    pub(super) gate: RwLock<()>,
    /// A handler may read more of the feed.
    pub(super) backlog: Notify,
    /// An event is due at an earlier time than the ones before.
    pub(super) due: Notify,
    /// An event is ready to run alone.
    pub(super) alone: Notify,
    /// A heartbeat is to be sent at once.
    pub(super) heartbeat: Notify,
    /// Progress has changed.
    pub(super) changed: Notify,
    /// Progress is to be saved at once.
    pub(super) save_due: Notify,
}

impl Shared {
    pub(super) fn new(
        feed_head: FeedHead,
        member: Name,
        (lease, reader): (Duration, Name),
        queues: Vec<Arc<HandlerQueue>>,
        counters: Arc<BusCounters>,
    ) -> Self {
        Self {
            feed_head,
            member,
            lease,
            reader,
            queues,
            counters,
            noted: OnceLock::new(),
            window: Mutex::default(),
            last_read: Mutex::default(),
            feed_error: Mutex::default(),
            gate: RwLock::new(()),
            backlog: Notify::new(),
            due: Notify::new(),
            alone: Notify::new(),
            heartbeat: Notify::new(),
            changed: Notify::new(),
            save_due: Notify::new(),
        }
    }

    pub(super) const fn feed_head(&self) -> &FeedHead {
        &self.feed_head
    }

    pub(super) fn store(&self) -> &Arc<dyn EventStore> {
        self.feed_head.store()
    }

    pub(super) fn clock(&self) -> &SharedClock {
        self.feed_head.clock()
    }

    pub(super) fn queues(&self) -> &[Arc<HandlerQueue>] {
        &self.queues
    }

    pub(super) fn queue(&self, handler: &Name) -> Option<&Arc<HandlerQueue>> {
        self.queues.iter().find(|queue| queue.spec.name == *handler)
    }

    pub(super) fn of_group(&self, group: &Name) -> impl Iterator<Item = &Arc<HandlerQueue>> {
        self.queues.iter().filter(move |queue| queue.spec.group == *group)
    }

    pub(super) fn progress(&self) -> Result<&dyn HandlerProgress, HandlerProgressError> {
        self.store()
            .handler_progress()
            .ok_or_else(|| HandlerProgressError::new("the store keeps no progress of handlers"))
    }

    pub(super) fn noted(&self, handler: &Name) -> Option<&NotedHandler> {
        self.noted.get()?.get(handler)
    }

    /// Asks for a save soon; with `is_due`, at once.
    pub(super) fn note_change(&self, is_due: bool) {
        self.changed.notify_one();
        if is_due {
            self.save_due.notify_one();
        }
    }

    /// Returns the last event of the feed that was read.
    pub(super) fn last_read(&self) -> Option<(Position, EventId)> {
        *self.last_read.lock()
    }

    /// Notes the last event that was read of the feed.
    pub(super) fn note_read(&self, events: &[RecordedEvent]) {
        let Some(event) = events.last() else { return };
        let Some(position) = event.position() else { return };
        let mut last = self.last_read.lock();
        if last.is_none_or(|(last, _)| last < position) {
            *last = Some((position, event.metadata().event_id()));
        }
    }

    pub(super) fn note_feed_error(&self, error: &ReadError) {
        let text = ErrorLine(error).to_string();
        let mut noted = self.feed_error.lock();
        if noted.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "the feed cannot be read, handlers wait");
            *noted = Some(text);
        }
    }

    pub(super) fn note_feed_read(&self) {
        if self.feed_error.lock().take().is_some() {
            tracing::info!("the feed can be read again");
        }
    }

    /// Returns the position of an event that cannot be read, if an operator has skipped it.
    ///
    /// # Errors
    /// The error that reading it gave, or the one of reading the list of skipped events.
    pub(super) async fn skipped(&self, error: ReadError) -> Result<Position, ReadError> {
        let ReadError::Corrupt { position: Some(position), .. } = error else { return Err(error) };
        let skipped = skipped_positions(&**self.store(), &self.reader).await;
        let skipped = skipped.map_err(|error| ReadError::Unavailable(error.into()))?;
        if skipped.contains(&position) { Ok(position) } else { Err(error) }
    }

    /// Returns why the feed cannot be read at the moment.
    pub(super) fn feed_error(&self) -> Option<String> {
        self.feed_error.lock().clone()
    }

    /// Forgets all shards, and all that was read: an older copy has replaced the store.
    pub(super) fn forget_all(&self) {
        tracing::warn!("the store went back to an older copy: the handlers go on where it has them");
        self.store().appended().note_possible_restore();
        *self.last_read.lock() = None;
        self.window.lock().reset();
        self.queues.iter().for_each(|queue| queue.forget_all());
        self.heartbeat.notify_one();
    }
}
