//! The consumer of one group of the in-process bus.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{Resume, Shared, cursor::Unsaved, log::Log};
use crate::{
    domain::{error::Line, name::Name, record::RecordedEvent, stream::Position},
    port::{
        CheckpointError, DEFAULT_IN_HAND_BYTES, Desk, EventStore, FeedFilter, Hand, MessageId, ProgressUpdate,
        ReadError, RunLock, Settled, StopSignal, Tries, UnfinishedDelivery, Verdict, handler_span,
    },
};

/// How many events are handled between two checkpoints, at most.
const BATCH: usize = 64;
/// How long progress waits to be saved where little happens, or after it could not be saved.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// Hands the group its events until it is stopped.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    shared.log().cursor(&group).restart();
    let desk = shared.desk(&group);
    let clock = shared.settings.clock.clone();
    let hand = Arc::new(Hand::new(shared.settings.max_in_hand, DEFAULT_IN_HAND_BYTES, clock.clone()));
    let mut working = pin!(hand.work(&desk, &stop));
    let published = shared.published.subscribe();
    let mut consumer =
        Consumer { shared, group, hand: Arc::clone(&hand), published, numbers: HashMap::new(), unsaved: 0 };
    loop {
        let has_joined = stop.soon(consumer.join()).await.unwrap_or(false);
        let is_behind = !has_joined || consumer.shared.log().cursor(&consumer.group).is_behind();
        tokio::select! {
            biased;
            () = &mut working => break,
            () = hand.settled() => {}
            () = consumer.feed(), if has_joined => {}
            () = clock.sleep(SAVE_AGAIN), if is_behind => consumer.unsaved = BATCH,
        }
        consumer.write_down();
        stop.soon(consumer.save_now_and_then()).await;
    }
    consumer.write_down();
    if stop.soon(consumer.save()).await.is_none() {
        tracing::warn!(group = %consumer.group, "progress not saved: the store does not answer");
    }
}

impl Shared {
    /// How a group's entries are handled.
    fn desk(&self, group: &Name) -> Desk {
        Desk {
            group: group.clone(),
            subscribers: self.subscribers.clone(),
            counters: Arc::clone(&self.counters),
            retry: self.settings.retry,
            limits: self.settings.limits,
            run_lock: RunLock::default(), // no process that has ended leaves anything here
            span: Arc::new(handler_span),
        }
    }
}

struct Consumer {
    shared: Arc<Shared>,
    group: Name,
    hand: Arc<Hand>,
    published: watch::Receiver<()>,
    /// The numbers in the log of what is in hand.
    numbers: HashMap<MessageId, u64>,
    /// What came of how many entries since the progress was saved.
    unsaved: usize,
}

impl Consumer {
    /// Takes entries while there is room, until there are others.
    async fn feed(&mut self) {
        'feed: loop {
            for _ in 0..self.hand.room().await {
                let taken = self.shared.log().take(&self.group);
                self.shared.room.send_replace(());
                let Some((number, taken)) = taken else {
                    break 'feed;
                };
                self.numbers.insert(taken.id.clone(), number);
                self.hand.add([taken]);
            }
        }
        // the bus lives as long as its consumers
        let _ = self.published.changed().await;
    }

    /// Writes down what came of entries, and lets go of those that are done with.
    fn write_down(&mut self) {
        let settled = self.hand.take_settled();
        if settled.is_empty() {
            return;
        }
        let groups = self.shared.subscribers.groups();
        self.unsaved += settled.len();
        let done: Vec<_> = settled.into_iter().filter_map(|settled| self.write_down_one(settled)).collect();
        self.shared.log().trim(&groups);
        self.hand.let_go(&done);
    }

    /// Writes down what came of an entry; returns its id if it is done with.
    fn write_down_one(&mut self, settled: Settled) -> Option<MessageId> {
        let Settled { id, verdict, .. } = settled;
        let number = self.numbers.get(&id).copied()?;
        let mut log = self.shared.log();
        match verdict {
            Verdict::Acknowledge { .. } => log.cursor(&self.group).finish(number),
            Verdict::Skip(_) => {
                self.shared.counters.events_skipped(1);
                log.cursor(&self.group).finish(number);
            }
            Verdict::Bury(tries) => {
                self.shared.counters.messages_sent_to_dlq(1);
                log.bury(&self.group, number, tries);
                self.unsaved = BATCH;
            }
            Verdict::Retry { tries, .. } => {
                log.cursor(&self.group).keep(number, tries);
                return None;
            }
            Verdict::Begin(_) => {
                self.hand.begin([&id]);
                return None;
            }
        }
        self.numbers.remove(&id);
        Some(id)
    }

    /// Loads the progress of a group that came after the bus resumed. Returns `true` if it is loaded, or there is nowhere
    /// to load it from: then the group may begin.
    async fn join(&self) -> bool {
        let (shared, group) = (&self.shared, &self.group);
        let Some(resume) = shared.resume().clone() else {
            return true;
        };
        if shared.log().cursor(group).is_loaded {
            return true;
        }
        match Progress::load(&*resume.store, group).await {
            Ok(progress) => {
                let mut log = shared.log();
                let fed_from = resume.fed_from.max(log.dropped().filter(|_| resume.fed_from.is_some()));
                progress.resume(&mut log, fed_from);
                drop(log);
                // the other groups pass over what was read back for this one
                shared.published.send_replace(());
                true
            }
            Err(error) => {
                tracing::warn!(%group, %error, "progress not loaded, trying again");
                false
            }
        }
    }

    /// Saves the group's progress when there is much of it, or no entry is left to be read.
    async fn save_now_and_then(&mut self) {
        if self.unsaved >= BATCH || self.shared.log().unread(&self.group) == 0 {
            self.save().await;
        }
    }

    /// Saves the group's progress if there is any; tried again soon if it fails.
    async fn save(&mut self) {
        self.unsaved = 0;
        let (shared, group) = (&self.shared, &self.group);
        let Some(Resume { store, .. }) = shared.resume().clone() else {
            return;
        };
        let Some(unsaved) = shared.log().cursor(group).unsaved() else {
            return;
        };
        match save_progress(shared, &*store, group, &unsaved).await {
            Ok(()) => {
                let groups = shared.subscribers.groups();
                let mut log = shared.log();
                log.cursor(group).saved(unsaved);
                log.trim(&groups);
            }
            Err(error) => tracing::warn!(%group, %error, "progress not saved, trying again"),
        }
    }
}

fn checkpoint_name(group: &Name) -> Name {
    Name::prefixed("group:", group)
}

/// The progress of a group as a store kept it.
pub(super) struct Progress {
    group: Name,
    pub(super) checkpoint: Option<Position>,
    /// The events up to the checkpoint that wait: the feed does not bring them again.
    before: Vec<(RecordedEvent, Tries)>,
    /// What waits after it.
    ahead: Vec<UnfinishedDelivery>,
    /// What is a dead letter after it.
    dead_ahead: Vec<Position>,
}

impl Progress {
    /// Loads it, and the events before the checkpoint that wait.
    pub(super) async fn load(store: &dyn EventStore, group: &Name) -> Result<Self, CheckpointError> {
        let checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
        if checkpoint.is_none() {
            tracing::info!(%group, "no checkpoint yet: the group begins with the oldest event");
        }
        let end = checkpoint.unwrap_or(Position::START);
        let dead_ahead = store.dead_positions(group, end).await?;
        let waiting = store.waiting_deliveries(group).await?;
        let (passed, ahead): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|row| row.position <= end);
        let mut before = Vec::with_capacity(passed.len());
        for UnfinishedDelivery { position, tries, .. } in passed {
            match event_at(store, position).await {
                Ok(Some(event)) => before.push((event, tries)),
                Ok(None) => tracing::error!(%group, %position, "the store lacks an event whose delivery is unfinished"),
                Err(error @ ReadError::Corrupt { .. }) => {
                    tracing::error!(%group, %position, error = %Line(&error), "unfinished delivery left");
                }
                Err(error) => return Err(CheckpointError::new(group, error)),
            }
        }
        Ok(Self { group: group.clone(), checkpoint, before, ahead, dead_ahead })
    }

    /// Lets the group go on from there; everything after `fed_from` passes through the log.
    pub(super) fn resume(self, log: &mut Log, fed_from: Option<Position>) {
        let cursor = log.cursor(&self.group);
        cursor.load(self.checkpoint, fed_from);
        cursor.load_ahead(self.ahead, self.dead_ahead);
        for (event, tries) in self.before {
            log.restore(&self.group, &event, tries);
        }
    }
}

/// The event at a position of a store.
pub(super) async fn event_at(store: &dyn EventStore, position: Position) -> Result<Option<RecordedEvent>, ReadError> {
    let before = Position::new(position.get().saturating_sub(1));
    store.read_feed(before, position, &FeedFilter::all()).next().await.transpose()
}

async fn save_progress(
    shared: &Shared,
    store: &dyn EventStore,
    group: &Name,
    unsaved: &Unsaved,
) -> Result<(), CheckpointError> {
    let name = checkpoint_name(group);
    if let Some(checkpoint) = unsaved.checkpoint {
        let stored = store.load_checkpoint(&name).await?;
        if shared.log().cursor(group).sees_rival(stored, checkpoint) {
            tracing::warn!(
                %group,
                "someone else handles this store's events in process, too: each handles all of them; let one app do it, \
                 or take a bus that they share"
            );
        }
    }
    let checkpoint = unsaved.checkpoint.map(|position| (name, position));
    let update = ProgressUpdate { checkpoint, unfinished: unsaved.rows(), finished: unsaved.finished.clone() };
    store.save_progress(group, &update).await
}
