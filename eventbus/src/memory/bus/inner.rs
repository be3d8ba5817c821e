//! The state of the in-process bus, and publishing to its log.
//!
//! Invariant: no caller awaits while it holds the lock of the log.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    log::{Capacity, EntryLog},
    relay::Records,
    settings::{BusSettings, DEFAULT_GROUP, DESTINATION},
};
use crate::{
    delivery::{Consuming, GroupContext, Subscribers, SuspectLock, handler_span},
    domain::{name::Name, record::RecordedEvent},
    port::{MessageId, PublishError, stats::BusCounters},
    support::check_records,
};

/// The state that the clones of an in-process bus share.
#[derive(Debug)]
pub(super) struct BusInner {
    settings: BusSettings,
    /// One lock for the entries and all cursors: a trim reads every cursor.
    log: Mutex<EntryLog>,
    /// Wakes the groups when there are entries to read.
    published: watch::Sender<()>,
    /// Wakes publishers when there may be room.
    capacity_freed: watch::Sender<()>,
    /// Locked while a range is published: the record of its store moves with it.
    records: tokio::sync::Mutex<Records>,
    /// Lets one suspect run at a time.
    suspect_lock: SuspectLock,
    subscribers: Subscribers,
    counters: Arc<BusCounters>,
    consuming: Consuming,
}

impl BusInner {
    pub(super) fn new(settings: BusSettings) -> Self {
        let clock = settings.clock.clone();
        let capacity = Capacity { entries: settings.capacity.max(1), bytes: settings.capacity_bytes.max(1) };
        let mut log = EntryLog::new(capacity, clock.clone());
        log.cursor(&DEFAULT_GROUP);
        Self {
            settings,
            log: Mutex::new(log),
            published: watch::Sender::new(()),
            capacity_freed: watch::Sender::new(()),
            records: tokio::sync::Mutex::default(),
            suspect_lock: SuspectLock::default(),
            subscribers: Subscribers::default(),
            counters: Arc::default(),
            consuming: Consuming::with_clock(clock),
        }
    }

    pub(super) const fn settings(&self) -> &BusSettings {
        &self.settings
    }

    pub(super) const fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    pub(super) fn counters(&self) -> &BusCounters {
        &self.counters
    }

    pub(super) const fn consuming(&self) -> &Consuming {
        &self.consuming
    }

    pub(super) const fn records(&self) -> &tokio::sync::Mutex<Records> {
        &self.records
    }

    pub(super) fn log(&self) -> MutexGuard<'_, EntryLog> {
        self.log.lock()
    }

    /// Wakes the groups, as there are entries to read.
    pub(super) fn notify_published(&self) {
        self.published.send_replace(());
    }

    pub(super) fn watch_published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }

    /// Wakes publishers, as there may be room.
    pub(super) fn notify_capacity_freed(&self) {
        self.capacity_freed.send_replace(());
    }

    /// Appends events as soon as no group lags by the capacity.
    pub(super) async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        check_records(&DESTINATION, events)?;
        let mut room = self.capacity_freed.subscribe();
        let mut subscribers = self.subscribers.watch();
        loop {
            // before the try, so that a change during it ends the wait below
            room.mark_unchanged();
            subscribers.mark_unchanged();
            if let Some(published) = self.try_publish(events) {
                return published;
            }
            // a consumer that finishes events frees room, and so may a change of the groups
            tokio::select! {
                _ = room.changed() => {}
                _ = subscribers.changed() => {}
            }
        }
    }

    /// Appends events if there is room, and refuses them if there will be none; otherwise `None`: the publisher waits.
    fn try_publish(&self, events: &[RecordedEvent]) -> Option<Result<Vec<MessageId>, PublishError>> {
        let destination = DESTINATION.clone();
        if self.consuming.is_closed() {
            return Some(Err(PublishError::ShutDown { destination }));
        }
        let groups = self.subscribers.groups();
        let mut log = self.log();
        if log.is_full(&groups) {
            let refused = Err(PublishError::Full { destination });
            return (!self.consuming.is_running()).then_some(refused);
        }
        let ids = log.append(events, &groups);
        drop(log);
        self.counters.events_published(events.len() as u64);
        self.notify_published();
        Some(Ok(ids))
    }

    /// Returns the context in which a group's entries are handled.
    pub(super) fn group_context(&self, group: &Name) -> GroupContext {
        GroupContext {
            group: group.clone(),
            subscribers: self.subscribers.clone(),
            counters: Arc::clone(&self.counters),
            retry: self.settings.retry,
            limits: self.settings.limits,
            suspect_lock: self.suspect_lock.clone(),
            span: Arc::new(handler_span),
        }
    }
}

/// Wakes publishers when it is dropped, as the bus consumes no more.
pub(super) struct NotifyPublishersGuard<'a>(pub(super) &'a BusInner);

impl Drop for NotifyPublishersGuard<'_> {
    fn drop(&mut self) {
        self.0.notify_capacity_freed();
    }
}
