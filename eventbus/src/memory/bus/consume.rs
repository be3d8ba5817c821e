//! The consumer of one group of the in-process bus.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::Span;

use super::{Resume, Shared};
use crate::{
    domain::{name::Name, stream::Position},
    port::{CheckpointError, Checkpoints, DEFAULT_IN_HAND_BYTES, Desk, Hand, MessageId, Settled, StopSignal, Verdict},
};

/// How many events are handled between two checkpoints, at most.
const BATCH: usize = 64;
/// How long a checkpoint that could not be saved waits for the next try, where nothing else happens.
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
        stop.soon(consumer.join()).await;
        let is_behind = consumer.shared.log().cursor(&consumer.group).checkpoint().is_some();
        tokio::select! {
            biased;
            () = &mut working => break,
            () = hand.settled() => {}
            () = consumer.feed() => {}
            () = clock.sleep(SAVE_AGAIN), if is_behind => {}
        }
        consumer.write_down();
        stop.soon(consumer.save_now_and_then()).await;
    }
    consumer.write_down();
    if stop.soon(consumer.save()).await.is_none() {
        tracing::warn!(group = %consumer.group, "checkpoint not saved: the store does not answer");
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
            span: Arc::new(|_| Span::none()),
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
    /// How many entries were done with since the checkpoint was saved.
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
        let done: Vec<_> = settled.into_iter().filter_map(|settled| self.write_down_one(settled)).collect();
        self.shared.log().trim(&groups);
        self.hand.let_go(&done);
        self.unsaved += done.len();
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

    /// Loads the checkpoint of a group that came after the bus resumed; tried again with the next batch if it fails.
    async fn join(&self) {
        let (shared, group) = (&self.shared, &self.group);
        let Some(Resume { checkpoints, fed_from }) = shared.resume().clone() else {
            return;
        };
        if shared.log().cursor(group).is_loaded {
            return;
        }
        match load(&*checkpoints, group).await {
            Ok(saved) => {
                let mut log = shared.log();
                let fed_from = fed_from.max(log.dropped().filter(|_| fed_from.is_some()));
                log.cursor(group).load(saved, fed_from);
            }
            Err(error) => tracing::warn!(%group, %error, "checkpoint not loaded, trying again"),
        }
    }

    /// Saves the group's checkpoint when many entries are done with, or none is left to be read.
    async fn save_now_and_then(&mut self) {
        if self.unsaved >= BATCH || self.shared.log().unread(&self.group) == 0 {
            self.save().await;
        }
    }

    /// Saves the group's checkpoint if it moved; tried again soon if it fails.
    async fn save(&mut self) {
        self.unsaved = 0;
        let (shared, group) = (&self.shared, &self.group);
        let Some(Resume { checkpoints, .. }) = shared.resume().clone() else {
            return;
        };
        let Some(checkpoint) = shared.log().cursor(group).checkpoint() else {
            return;
        };
        match save_checkpoint(shared, &*checkpoints, group, checkpoint).await {
            Ok(()) => shared.log().cursor(group).saved(checkpoint),
            Err(error) => tracing::warn!(%group, %error, "checkpoint not saved, trying again"),
        }
    }
}

fn checkpoint_name(group: &Name) -> Name {
    Name::prefixed("group:", group)
}

/// The checkpoint of a group.
pub(super) async fn load(checkpoints: &dyn Checkpoints, group: &Name) -> Result<Option<Position>, CheckpointError> {
    let saved = checkpoints.load_checkpoint(&checkpoint_name(group)).await?;
    if saved.is_none() {
        tracing::info!(%group, "no checkpoint yet: the group begins with the oldest event");
    }
    Ok(saved)
}

async fn save_checkpoint(
    shared: &Shared,
    checkpoints: &dyn Checkpoints,
    group: &Name,
    checkpoint: Position,
) -> Result<(), CheckpointError> {
    let name = checkpoint_name(group);
    let stored = checkpoints.load_checkpoint(&name).await?;
    if shared.log().cursor(group).sees_rival(stored, checkpoint) {
        tracing::warn!(
            %group,
            "someone else handles this store's events in process, too: each handles all of them; let one app do it, or \
             take a bus that they share"
        );
    }
    checkpoints.save_checkpoint(&name, checkpoint).await
}
