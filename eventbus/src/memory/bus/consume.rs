//! The consumer of one group of the in-process bus.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{
    Resume, Shared,
    cursor::Unsaved,
    log::Log,
    types::{self, DuePage},
    unreadable::{Rounds, skipped_by_operators},
};
use crate::{
    domain::{
        error::{BoxError, Line},
        name::Name,
        record::RecordedEvent,
        stream::Position,
    },
    port::{
        Announced, CheckpointError, DEFAULT_IN_HAND_BYTES, Desk, DueRange, EventStore, FeedFilter, GroupTypes, Hand,
        MessageId, Outage, PAGE_BYTES, ProgressUpdate, ReadError, Settled, StopSignal, Subscribers, Taken, Tries,
        UnfinishedDelivery, Unhandled, Verdict, handler_span, log_skipped_type,
    },
};

/// How many events are handled between two checkpoints, at most.
const BATCH: usize = 64;
/// How far ahead it is noted what a group may read, at least: as many events as make the notes few.
const LEAST_AHEAD: usize = 8;
/// How long progress waits to be saved where little happens, or after it could not be saved.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

/// Hands the group its events until it is stopped.
pub(super) async fn consume(shared: Arc<Shared>, group: Name, stop: StopSignal) {
    shared.log().begin(&group, shared.subscribers.begin_now(&group));
    let desk = shared.desk(&group);
    let clock = shared.settings.clock.clone();
    let hand = Hand::new(shared.settings.max_in_hand, DEFAULT_IN_HAND_BYTES, clock.clone());
    let hand = Arc::new(hand.with_waiting(shared.settings.max_waiting));
    let mut working = pin!(hand.work(&desk, &stop));
    let published = shared.published.subscribe();
    let outage = Outage::new(clock.clone());
    let mut consumer = Consumer {
        subscribed: shared.subscribers.watch(),
        shared,
        group,
        hand: Arc::clone(&hand),
        published,
        numbers: HashMap::new(),
        announced: Vec::new(),
        due: Vec::new(),
        beginning: Vec::new(),
        unsaved: 0,
        outage,
        bringing: Outage::new(clock.clone()),
        rounds: Rounds::new(clock.clone()),
    };
    loop {
        let has_joined = stop.soon(consumer.prepare()).await.unwrap_or(false);
        if !has_joined {
            hand.more_follows(false);
        }
        let looks_again = !has_joined || consumer.shared.log().cursor(&consumer.group).is_to_be_looked_after();
        tokio::select! {
            biased;
            () = &mut working => break,
            () = hand.settled() => {}
            () = hand.due() => drop(stop.soon(consumer.read_again()).await),
            () = consumer.feed(), if has_joined => {}
            () = clock.sleep(SAVE_AGAIN), if looks_again => consumer.unsaved = BATCH,
        }
        consumer.write_down();
        stop.soon(consumer.save_now_and_then()).await;
        hand.add(std::mem::take(&mut consumer.due));
    }
    hand.give_back();
    consumer.write_down();
    let last = async {
        consumer.save().await;
        consumer.note_stopped().await;
    };
    if stop.soon(last).await.is_none() {
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
            run_lock: self.run_lock.clone(),
            span: Arc::new(handler_span),
        }
    }
}

struct Consumer {
    shared: Arc<Shared>,
    group: Name,
    hand: Arc<Hand>,
    published: watch::Receiver<()>,
    subscribed: watch::Receiver<()>,
    /// The numbers in the log of what is in hand.
    numbers: HashMap<MessageId, u64>,
    /// What the group's handlers announced last.
    announced: Vec<Announced>,
    /// What was due when it was taken, and what was taken after it.
    due: Vec<Taken>,
    /// The suspects that may run once it is saved that they begin.
    beginning: Vec<MessageId>,
    /// What came of how many entries since the progress was saved.
    unsaved: usize,
    /// Of the store, for the progress.
    outage: Outage,
    /// Of the store, for what the group skipped.
    bringing: Outage,
    rounds: Rounds,
}

impl Consumer {
    /// Returns `true` if the group may take entries now.
    async fn prepare(&mut self) -> bool {
        if !self.join().await {
            return false;
        }
        self.announce();
        let Some(Resume { store, .. }) = self.shared.resume().clone() else {
            return true;
        };
        self.note_reach(&*store).await;
        self.rounds.look(&self.shared, &*store, &self.group).await;
        self.bring_revived(&*store).await && self.bring(&*store).await
    }

    /// Has the next dead letters taken that are delivered again. Returns `true` if the group may go on.
    async fn bring_revived(&mut self, store: &dyn EventStore) -> bool {
        let (mut brought, mut bytes) = (0, 0);
        while brought < BATCH && bytes < PAGE_BYTES {
            let next = {
                let mut log = self.shared.log();
                let cursor = log.cursor(&self.group);
                cursor.revived.front().filter(|_| brought > 0 || cursor.again.is_empty()).map(|(position, _)| *position)
            };
            let Some(position) = next else {
                break;
            };
            let event = match event_at(store, position).await {
                Ok(event) => event,
                Err(ReadError::Corrupt { .. }) => None,
                Err(error) => {
                    if self.bringing.begins() {
                        tracing::warn!(group = %self.group, %error, "dead letters not read, trying again");
                    }
                    return false;
                }
            };
            brought += 1;
            let mut log = self.shared.log();
            let now = log.clock.now();
            let cursor = log.cursor(&self.group);
            let Some((_, tries)) = cursor.revived.pop_front_if(|(front, _)| *front == position) else {
                continue; // the group left the store meanwhile
            };
            match event {
                Some(event) => {
                    bytes += event.payload().len();
                    log.restore(&self.group, &event, tries);
                }
                None => cursor.unreadable.add(position, tries, now),
            }
        }
        if brought > 0 {
            if let Some(lasted) = self.bringing.ends() {
                tracing::info!(group = %self.group, ?lasted, "dead letters are read again");
            }
            // the other groups pass over what was read for this one
            self.shared.published.send_replace(());
        }
        true
    }

    /// Takes entries while there is room, until there are others.
    async fn feed(&mut self) {
        let mut follows = false;
        'feed: loop {
            for _ in 0..self.hand.room().await {
                let taken = self.shared.log().take(&self.group);
                self.shared.room.send_replace(());
                if taken.is_none() || !follows {
                    follows = taken.is_some();
                    self.hand.more_follows(follows);
                }
                let Some((number, mut taken)) = taken else {
                    break 'feed;
                };
                if taken.is_left_over {
                    taken.is_left_over = self.is_wanted(&taken.record);
                }
                self.numbers.insert(taken.id.clone(), number);
                // those behind it may be of its aggregate
                if self.ends_wait(number, &taken.tries) || !self.due.is_empty() {
                    self.due.push(taken);
                    continue;
                }
                self.hand.add([taken]);
                if self.hand.is_crowded() {
                    break;
                }
            }
            if !self.due.is_empty() {
                break;
            }
        }
        if !self.due.is_empty() {
            self.unsaved = BATCH;
            return;
        }
        {
            let mut log = self.shared.log();
            if log.cursor(&self.group).is_to_be_brought() || log.is_at_its_reach(&self.group) {
                return;
            }
        }
        // the bus lives as long as its consumers
        tokio::select! {
            _ = self.published.changed() => {}
            _ = self.subscribed.changed() => {}
        }
    }

    /// Whether an entry was due when it was taken: that it does not wait any more is to be saved before it runs.
    fn ends_wait(&self, number: u64, tries: &Tries) -> bool {
        let mut log = self.shared.log();
        tries.next_at.is_some() && !tries.is_waiting(&log.clock) && log.cursor(&self.group).ends_waiting(number)
    }

    /// Whether a handler of the group gets this event.
    fn is_wanted(&self, record: &RecordedEvent) -> bool {
        self.shared.subscribers.handle(&self.group, record.event_type())
    }

    /// Notes how far the group may read from now on, where it has come near to that. What cannot be noted holds nothing up:
    /// should the process end, an event that it had in flight is not known for one.
    async fn note_reach(&mut self, store: &dyn EventStore) {
        let ahead = self.hand.read_ahead().max(LEAST_AHEAD).saturating_mul(2) as u64;
        let Some(reach) = self.shared.log().next_reach(&self.group, ahead) else {
            return;
        };
        if let Err(error) = store.save_checkpoint(&reach_name(&self.group), reach).await
            && self.outage.begins()
        {
            tracing::warn!(group = %self.group, %error, "how far the group reads is not saved, trying again");
        }
        self.shared.log().cursor(&self.group).extend(reach);
    }

    /// Notes that nothing of the group is in flight any more.
    async fn note_stopped(&self) {
        let Some(Resume { store, .. }) = self.shared.resume().clone() else {
            return;
        };
        if !self.shared.log().cursor(&self.group).ends_reach() {
            return;
        }
        if let Err(error) = store.save_checkpoint(&reach_name(&self.group), Position::START).await {
            tracing::warn!(group = %self.group, %error, "that the group is stopped is not saved");
        }
    }

    /// Announces what the group's handlers handle, where that changed.
    fn announce(&mut self) {
        self.subscribed.mark_unchanged();
        let announced = self.shared.subscribers.announced(&self.group);
        if announced.is_empty() || announced == self.announced {
            return;
        }
        let within = self.shared.settings.deliver_skipped_within;
        for (event_type, range) in self.shared.log().announce(&self.group, &announced, within) {
            range.skipped_before(&self.group, event_type, &self.shared.settings.clock).log();
        }
        self.announced = announced;
    }

    /// Has the next events of a range taken that is due, each with a row from now on, before any new one. Returns `true`
    /// if the group may go on.
    async fn bring(&mut self, store: &dyn EventStore) -> bool {
        let due = {
            let mut log = self.shared.log();
            let cursor = log.cursor(&self.group);
            cursor.types.due().filter(|_| cursor.again.is_empty()).cloned()
        };
        let Some(due) = due else {
            return true;
        };
        let (group, event_type) = (&self.group, &due.event_type);
        match self.try_bring(store, &due).await {
            Ok(()) => {
                if let Some(lasted) = self.bringing.ends() {
                    tracing::info!(%group, event_type, ?lasted, "skipped events are read again");
                }
                // their rows are written: what is not noted now is brought once more by the next process
                self.save().await;
                true
            }
            Err(error) => {
                if self.bringing.begins() {
                    tracing::warn!(%group, event_type, error = %Line(&*error), "skipped events not read, trying again");
                }
                false
            }
        }
    }

    async fn try_bring(&self, store: &dyn EventStore, due: &DueRange) -> Result<(), BoxError> {
        let skipped = skipped_by_operators(store).await?;
        let DuePage { mut events, through, mut unreadable } = types::next_page(store, due, &skipped).await?;
        {
            let mut log = self.shared.log();
            let cursor = log.cursor(&self.group);
            // those of a page that was brought before, and not noted
            events.retain(|event| event.position().is_some_and(|position| !cursor.has_row(position)));
            unreadable.take_if(|position| cursor.unreadable.contains(*position));
        }
        let row = |position| UnfinishedDelivery { position, tries: Tries::default(), dead_since: None };
        let unfinished = events.iter().filter_map(RecordedEvent::position).chain(unreadable).map(row).collect();
        store.save_progress(&self.group, &ProgressUpdate { unfinished, ..ProgressUpdate::default() }).await?;
        let mut log = self.shared.log();
        for event in &events {
            log.restore(&self.group, event, Tries::default());
        }
        let now = log.clock.now();
        let cursor = log.cursor(&self.group);
        if let Some(position) = unreadable {
            tracing::error!(
                group = %self.group, event_type = due.event_type, %position,
                "a skipped event cannot be read and is left, trying again every minute: mend it, or skip it with \
                 `app.skip_published_event`"
            );
            cursor.unreadable.add(position, Tries::default(), now);
        }
        cursor.types.delivered_through(through);
        drop(log);
        // the other groups pass over what was read for this one
        self.shared.published.send_replace(());
        Ok(())
    }

    /// Reads entries again that have waited, once what came of them before is written down, and saved that they do not wait
    /// any more.
    async fn read_again(&mut self) {
        self.write_down();
        let all_due = self.hand.take_due();
        let ends_waiting = {
            let mut log = self.shared.log();
            let cursor = log.cursor(&self.group);
            let numbers = all_due.iter().filter_map(|due| self.numbers.get(&due.id));
            numbers.filter(|number| cursor.ends_waiting(**number)).count() > 0
        };
        if ends_waiting {
            self.save().await;
        }
        let (mut taken, mut gone) = (Vec::new(), Vec::new());
        let mut log = self.shared.log();
        for due in all_due {
            let number = self.numbers.get(&due.id);
            match number.and_then(|number| log.take_again(&self.group, *number)) {
                Some(again) => taken.push(again),
                None => gone.push(due.id),
            }
        }
        drop(log);
        for id in &gone {
            self.numbers.remove(id);
        }
        self.hand.let_go(&gone);
        self.hand.resume(taken);
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
        let Settled { id, record, verdict } = settled;
        let number = self.numbers.get(&id).copied()?;
        let mut log = self.shared.log();
        if log.cursor(&self.group).is_suspect(number) {
            self.unsaved = BATCH; // else it would count as in flight if the process ended now
        }
        match verdict {
            Verdict::Acknowledge { .. } => log.cursor(&self.group).finish(number),
            Verdict::Skip(tries) => {
                let now = log.clock.unix_millis();
                let passed = log.cursor(&self.group).pass(number, tries, now);
                drop(log);
                if let (Some(record), Some(passed)) = (&record, passed) {
                    self.count_unhandled(record.event_type(), passed);
                }
            }
            Verdict::Bury(tries) if self.leaves_to_newer(&mut log, record.as_ref()) => {
                log.cursor(&self.group).leave(number, Tries::anew(tries.done));
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
            Verdict::Begin(tries) => {
                log.cursor(&self.group).keep(number, tries);
                self.beginning.push(id);
                return None;
            }
        }
        self.numbers.remove(&id);
        Some(id)
    }

    /// Counts an event that no handler wants, and logs the first of its type.
    fn count_unhandled(&self, event_type: &Name, unhandled: Unhandled) {
        match unhandled {
            Unhandled::Skipped { is_first } => {
                self.shared.counters.events_skipped(1);
                if is_first {
                    log_skipped_type(&self.group, event_type);
                }
            }
            Unhandled::Left { is_first: true } => tracing::warn!(
                group = %self.group, %event_type,
                "events are left: the group announced their type before, and no handler of it is here now; \
                 `forget_event_type` lets the group skip it"
            ),
            Unhandled::Left { is_first: false } => {}
        }
    }

    fn leaves_to_newer(&self, log: &mut Log, record: Option<&RecordedEvent>) -> bool {
        let types = &log.cursor(&self.group).types;
        record.is_some_and(|record| types.leaves_to_newer(&self.shared.subscribers, &self.group, record))
    }

    /// Loads the progress of a group that came after the bus resumed. Returns `true` if it is loaded, or there is nowhere
    /// to load it from: then the group may begin.
    async fn join(&mut self) -> bool {
        let (shared, group) = (&self.shared, &self.group);
        let Some(resume) = shared.resume().clone() else {
            return true;
        };
        if shared.log().cursor(group).is_loaded {
            return true;
        }
        match Progress::load(&*resume.store, group, &shared.subscribers).await {
            Ok(progress) => {
                let mut log = shared.log();
                let fed_from = resume.fed_from.max(log.dropped().filter(|_| resume.fed_from.is_some()));
                progress.resume(&mut log, fed_from);
                drop(log);
                // the other groups pass over what was read back for this one
                shared.published.send_replace(());
                if let Some(lasted) = self.outage.ends() {
                    tracing::info!(%group, ?lasted, "progress is loaded now");
                }
                true
            }
            Err(error) => {
                if self.outage.begins() {
                    tracing::warn!(%group, %error, "progress not loaded, trying again");
                }
                false
            }
        }
    }

    /// It is saved that these begin.
    fn begin_suspects(&mut self) {
        self.hand.begin(&std::mem::take(&mut self.beginning));
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
            self.begin_suspects();
            return;
        };
        if let Err(error) = save_types(shared, &*store, group).await {
            if self.outage.begins() {
                tracing::warn!(%group, %error, "what the group skipped is not saved, trying again");
            }
            return;
        }
        let unsaved = shared.log().cursor(group).unsaved();
        let Some(unsaved) = unsaved else {
            self.begin_suspects();
            return;
        };
        match save_progress(shared, &*store, group, &unsaved).await {
            Ok(()) => {
                let groups = shared.subscribers.groups();
                let mut log = shared.log();
                log.cursor(group).saved(unsaved);
                log.trim(&groups);
                drop(log);
                if let Some(lasted) = self.outage.ends() {
                    tracing::info!(%group, ?lasted, "progress is saved again");
                }
                self.begin_suspects();
            }
            Err(error) if self.outage.begins() => tracing::warn!(%group, %error, "progress not saved, trying again"),
            Err(error) => tracing::debug!(%group, %error, "progress still not saved"),
        }
    }
}

/// How far a group may read, while it is consumed: it may have everything up to there in flight that is not finished.
fn reach_name(group: &Name) -> Name {
    Name::prefixed("reading:", group)
}

/// Saves what the group announced and left unhandled, if that changed: before the checkpoint passes it.
pub(super) async fn save_types(shared: &Shared, store: &dyn EventStore, group: &Name) -> Result<(), CheckpointError> {
    let unsaved = {
        let mut log = shared.log();
        let cursor = log.cursor(group);
        cursor.types.unsaved().filter(|_| cursor.is_loaded)
    };
    if let Some((types, change)) = unsaved {
        types::save(store, group, &types).await?;
        shared.log().cursor(group).types.saved(change);
    }
    Ok(())
}

pub(super) fn checkpoint_name(group: &Name) -> Name {
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
    /// Those of them that the store does not have, or cannot read.
    unreadable: Vec<(Position, Tries)>,
    /// What is a dead letter after it.
    dead_ahead: Vec<Position>,
    types: GroupTypes,
    /// Set if it was not stopped by the process before: what that may have had in flight is up to there.
    left_over: Option<Position>,
}

impl Progress {
    /// Loads it, and the events before the checkpoint that wait. A group without one begins with the oldest event, or
    /// with the next one if that is what its handlers say.
    pub(super) async fn load(
        store: &dyn EventStore,
        group: &Name,
        subscribers: &Subscribers,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
        if checkpoint.is_none() && subscribers.begin_now(group) {
            let head = store.head().await.map_err(|error| CheckpointError::new(group, error))?;
            store.save_checkpoint(&checkpoint_name(group), head).await?;
            tracing::info!(%group, position = %head, "no checkpoint yet: the group begins with the next event");
            checkpoint = Some(head);
        } else if checkpoint.is_none() {
            tracing::info!(%group, "no checkpoint yet: the group begins with the oldest event");
        }
        let types = types::load(store, group, checkpoint).await?;
        let reach = store.load_checkpoint(&reach_name(group)).await?.filter(|reach| *reach > Position::START);
        let left_over = match reach {
            // what came later was in flight nowhere
            Some(reach) => Some(reach.min(store.head().await.map_err(|error| CheckpointError::new(group, error))?)),
            None => None,
        };
        let end = checkpoint.unwrap_or(Position::START);
        let dead_ahead = store.dead_positions(group, end).await?;
        let waiting = store.waiting_deliveries(group).await?;
        let (passed, ahead): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|row| row.position <= end);
        let (mut before, mut unreadable) = (Vec::with_capacity(passed.len()), Vec::new());
        for UnfinishedDelivery { position, tries, .. } in passed {
            match event_at(store, position).await {
                Ok(Some(event)) => before.push((event, tries)),
                Ok(None) => {
                    tracing::error!(%group, %position, "the store lacks an event whose delivery is unfinished");
                    unreadable.push((position, tries));
                }
                Err(error @ ReadError::Corrupt { .. }) => {
                    tracing::error!(%group, %position, error = %Line(&error), "unfinished delivery left");
                    unreadable.push((position, tries));
                }
                Err(error) => return Err(CheckpointError::new(group, error)),
            }
        }
        Ok(Self { group: group.clone(), checkpoint, before, unreadable, ahead, dead_ahead, types, left_over })
    }

    /// Lets the group go on from there; everything after `fed_from` passes through the log.
    pub(super) fn resume(self, log: &mut Log, fed_from: Option<Position>) {
        let now = log.clock.now();
        let cursor = log.cursor(&self.group);
        cursor.load(self.checkpoint, fed_from, self.left_over);
        cursor.load_ahead(self.ahead, self.dead_ahead);
        cursor.types.load(self.types);
        if cursor.types.due().is_some() {
            cursor.had_row = self.before.iter().filter_map(|(event, _)| event.position()).collect();
        }
        for (position, tries) in self.unreadable {
            cursor.unreadable.add(position, tries, now);
        }
        for (event, tries) in self.before {
            log.resume(&self.group, &event, tries);
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
                "another app handles this store's events in process, too: each handles all of them; let one app do it, \
                 or take a bus that they share"
            );
        }
    }
    let checkpoint = unsaved.checkpoint.map(|position| (name, position));
    let update = ProgressUpdate { checkpoint, unfinished: unsaved.rows(), finished: unsaved.finished.clone() };
    store.save_progress(group, &update).await
}
