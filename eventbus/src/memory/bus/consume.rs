//! The consumer of one group of the in-process bus.
//!
//! Invariant: with a store, a suspect runs only after its start is saved, and the types are saved before the checkpoint
//! that passes their events. While saves fail, the group takes no entries after [`UNSAVED_EVENTS_MAX`] dispositions.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    announced_types::{self, DueEvents},
    inner::{BusInner, ResumePoint},
    log::EntryLog,
    store_access::{read_event_at, read_limit_name, skipped_by_operators},
    stored_progress::{StoredProgress, save_progress, save_types},
    unreadable_checks::UnreadableChecks,
};
use crate::{
    delivery::{
        DEFAULT_IN_FLIGHT_BYTES, DisposedEntry, Disposition, DueRange, InFlight, InFlightEntry, StopSignal, Unhandled,
        log_skipped_type, run_workers,
    },
    domain::{
        error::{BoxError, ErrorLine},
        name::Name,
        record::RecordedEvent,
        stream::Position,
    },
    port::{
        Announced, EventStore, MessageId, ProgressUpdate, ReadError, UnfinishedDelivery, attempts::DeliveryAttempts,
    },
    support::{Outage, PAGE_BYTES},
};

/// The most events that a group handles between two checkpoints.
const CHECKPOINT_EVENTS_MAX: usize = 64;
/// The most events that a group handles while saves fail, beside those that are in flight then: the next process would
/// handle them all again.
const UNSAVED_EVENTS_MAX: usize = 4 * CHECKPOINT_EVENTS_MAX;
/// The least number of events by which a read limit is ahead: enough to save it seldom.
const READ_LIMIT_AHEAD_MIN: usize = 8;
/// The delay of a save while little happens, or after a failed save.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Consumes for a group until it is stopped.
pub(super) async fn consume_group(inner: Arc<BusInner>, group: Name, stop: StopSignal) {
    inner.log().begin_group(&group, inner.subscribers().start_now(&group));
    let context = inner.group_context(&group);
    let clock = inner.settings().clock.clone();
    let in_flight = InFlight::new(inner.settings().max_in_flight, DEFAULT_IN_FLIGHT_BYTES, clock.clone());
    let in_flight = Arc::new(in_flight.with_max_waiting(inner.settings().max_waiting));
    let mut working = pin!(run_workers(&in_flight, &context, &stop));
    let published = inner.watch_published();
    let outage = Outage::new(clock.clone());
    let mut consumer = GroupConsumer {
        subscribed: inner.subscribers().watch(),
        inner,
        group,
        in_flight: Arc::clone(&in_flight),
        published,
        entry_numbers: HashMap::new(),
        announced: Vec::new(),
        awaiting_save: Vec::new(),
        suspects_to_begin: Vec::new(),
        unsaved_count: 0,
        unsaved_in_outage: 0,
        is_held: false,
        save_outage: outage,
        read_outage: Outage::new(clock.clone()),
        unreadable_checks: UnreadableChecks::new(clock.clone()),
    };
    loop {
        let has_joined = stop.within_grace_period(consumer.prepare()).await.unwrap_or(false);
        let is_held = consumer.is_held;
        if !has_joined || is_held {
            in_flight.set_has_more(false);
        }
        let has_periodic_work =
            !has_joined || is_held || consumer.inner.log().cursor(&consumer.group).needs_periodic_work();
        tokio::select! {
            // a stop first, and entries in flight before new ones, so that a long backlog does not delay retries
            biased;
            () = &mut working => break,
            () = in_flight.disposed() => {}
            () = in_flight.due(), if !is_held => drop(stop.within_grace_period(consumer.read_due_retries()).await),
            () = consumer.read_entries(), if has_joined && !is_held => {}
            () = clock.sleep(SAVE_INTERVAL), if has_periodic_work => consumer.unsaved_count = CHECKPOINT_EVENTS_MAX,
        }
        consumer.apply_dispositions();
        stop.within_grace_period(consumer.save_if_due()).await;
        in_flight.add(std::mem::take(&mut consumer.awaiting_save));
    }
    in_flight.nack_unfinished();
    consumer.apply_dispositions();
    consumer.inner.log().cursor(&consumer.group).stop();
    let last = async {
        consumer.save().await;
        consumer.clear_saved_read_limit().await;
    };
    if stop.within_grace_period(last).await.is_none() {
        tracing::warn!(group = %consumer.group, "progress not saved: the store does not answer");
    }
}

struct GroupConsumer {
    inner: Arc<BusInner>,
    group: Name,
    in_flight: Arc<InFlight>,
    published: watch::Receiver<()>,
    subscribed: watch::Receiver<()>,
    /// The numbers in the log of the entries that `in_flight` knows.
    entry_numbers: HashMap<MessageId, u64>,
    /// The last announcements of the group's handlers.
    announced: Vec<Announced>,
    /// Entries whose retry was due when they were taken, and those taken after them: they run after the next save, also
    /// if it fails.
    awaiting_save: Vec<InFlightEntry>,
    /// Suspects that run once their start is saved.
    suspects_to_begin: Vec<MessageId>,
    /// The number of dispositions since the last save.
    unsaved_count: usize,
    /// The number of dispositions since a save last succeeded, or had nothing to write.
    unsaved_in_outage: usize,
    /// Set while the group takes no entries, new or due, as too many dispositions are unsaved.
    is_held: bool,
    /// The outage of loading and saving progress.
    save_outage: Outage,
    /// The outage of reading skipped events and replayed dead letters.
    read_outage: Outage,
    unreadable_checks: UnreadableChecks,
}

impl GroupConsumer {
    /// Prepares the group to read; returns `true` if it may take entries now.
    async fn prepare(&mut self) -> bool {
        if !self.load_progress().await {
            return false;
        }
        self.announce();
        let Some(resume) = self.inner.resume_point() else {
            return true;
        };
        self.save_read_limit(&resume).await;
        self.unreadable_checks.check(&self.inner, &*resume.store, &self.group).await;
        self.read_replayed_dead_letters(&*resume.store).await && self.read_due_events(&resume).await
    }

    /// Restores the next replayed dead letters. Returns `false` if the store does not answer.
    async fn read_replayed_dead_letters(&mut self, store: &dyn EventStore) -> bool {
        let (mut read_count, mut bytes) = (0, 0);
        while read_count < CHECKPOINT_EVENTS_MAX && bytes < PAGE_BYTES {
            let next = {
                let mut log = self.inner.log();
                let cursor = log.cursor(&self.group);
                cursor.next_replayed().filter(|_| read_count > 0 || !cursor.has_redeliveries())
            };
            let Some(position) = next else {
                break;
            };
            let event = match read_event_at(store, position).await {
                Ok(event) => event,
                Err(ReadError::Corrupt { .. }) => None,
                Err(error) => {
                    if self.read_outage.begins() {
                        tracing::warn!(group = %self.group, %error, "dead letters not read, trying again");
                    }
                    return false;
                }
            };
            read_count += 1;
            let mut log = self.inner.log();
            let now = log.clock().now();
            let cursor = log.cursor(&self.group);
            let Some(attempts) = cursor.take_replayed(position) else {
                continue; // the bus resumed from a store again meanwhile
            };
            match event {
                Some(event) => {
                    bytes += event.payload().len();
                    log.restore(&self.group, &event, attempts);
                }
                None => cursor.unreadable_mut().add(position, attempts, now),
            }
        }
        if read_count > 0 {
            if let Some(lasted) = self.read_outage.ends() {
                tracing::info!(group = %self.group, ?lasted, "dead letters are read again");
            }
            // the other groups pass over the entries that were read for this one
            self.inner.notify_published();
        }
        true
    }

    /// Takes entries while there is room; if the log has no more, waits until there are more or the subscribers change.
    async fn read_entries(&mut self) {
        let mut has_more = false;
        'feed: loop {
            for _ in 0..self.in_flight.room().await {
                let received = self.inner.log().take(&self.group);
                self.inner.notify_capacity_freed();
                if received.is_none() || !has_more {
                    has_more = received.is_some();
                    self.in_flight.set_has_more(has_more);
                }
                let Some((number, mut entry)) = received else {
                    break 'feed;
                };
                if entry.is_redelivered {
                    entry.is_redelivered = self.has_handler(&entry.record);
                }
                self.entry_numbers.insert(entry.id.clone(), number);
                // entries behind one that awaits the save may be of its aggregate
                if self.must_save_before_run(number, &entry.attempts) || !self.awaiting_save.is_empty() {
                    self.awaiting_save.push(entry);
                    continue;
                }
                self.in_flight.add([entry]);
                if self.in_flight.is_crowded() {
                    break;
                }
            }
            if !self.awaiting_save.is_empty() {
                break;
            }
        }
        if !self.awaiting_save.is_empty() {
            self.unsaved_count = CHECKPOINT_EVENTS_MAX;
            return;
        }
        {
            let mut log = self.inner.log();
            if log.cursor(&self.group).has_events_to_load() || log.is_at_read_limit(&self.group) {
                return;
            }
        }
        // neither fails: the bus, with the senders, lives as long as its consumers
        tokio::select! {
            _ = self.published.changed() => {}
            _ = self.subscribed.changed() => {}
        }
    }

    /// Returns `true` if an entry was due when it was taken: the end of its wait is to be saved before it runs.
    fn must_save_before_run(&self, number: u64, attempts: &DeliveryAttempts) -> bool {
        let mut log = self.inner.log();
        attempts.next_at.is_some() && !attempts.is_waiting(log.clock()) && log.cursor(&self.group).end_waiting(number)
    }

    /// Returns `true` if a handler of the group gets this event.
    fn has_handler(&self, record: &RecordedEvent) -> bool {
        self.inner.subscribers().handle(&self.group, record.event_type())
    }

    /// Saves a higher read limit once the group has come near the former one. A failed save does not hold the group up:
    /// if the process ends, an event in flight may then not run as a suspect.
    async fn save_read_limit(&mut self, resume: &ResumePoint) {
        let ahead = self.in_flight.read_ahead().max(READ_LIMIT_AHEAD_MIN).saturating_mul(2) as u64;
        let next = self.inner.log_of(resume).and_then(|log| log.next_read_limit(&self.group, ahead));
        let Some(read_limit) = next else {
            return;
        };
        if let Err(error) = resume.store.save_checkpoint(&read_limit_name(&self.group), read_limit).await
            && self.save_outage.begins()
        {
            tracing::warn!(group = %self.group, %error, "read limit not saved, trying again");
        }
        if let Some(mut log) = self.inner.log_of(resume) {
            log.cursor(&self.group).set_read_limit(read_limit);
        }
    }

    /// Saves that the group has no events in flight any more.
    async fn clear_saved_read_limit(&self) {
        let Some(store) = self.inner.store() else {
            return;
        };
        if !self.inner.log().cursor(&self.group).clear_read_limit() {
            return;
        }
        if let Err(error) = store.save_checkpoint(&read_limit_name(&self.group), Position::START).await {
            tracing::warn!(group = %self.group, %error, "stop of the group not saved");
        }
    }

    /// Announces the types that the group's handlers handle, if they changed.
    fn announce(&mut self) {
        self.subscribed.mark_unchanged();
        let announced = self.inner.subscribers().announced(&self.group);
        if announced.is_empty() || announced == self.announced {
            return;
        }
        let within = self.inner.settings().deliver_skipped_within;
        for (event_type, range) in self.inner.log().announce(&self.group, &announced, within) {
            range.skipped_before(&self.group, event_type, &self.inner.settings().clock).log();
        }
        self.announced = announced;
    }

    /// Restores the next events of a due range, each with a row from now on, before the group takes a new entry.
    /// Returns `false` if the store cannot read them or write their rows.
    async fn read_due_events(&mut self, resume: &ResumePoint) -> bool {
        let due = {
            let mut log = self.inner.log();
            let cursor = log.cursor(&self.group);
            cursor.types().due().filter(|_| !cursor.has_redeliveries()).cloned()
        };
        let Some(due) = due else {
            return true;
        };
        let (group, event_type) = (&self.group, &due.event_type);
        match self.try_read_due_events(resume, &due).await {
            Ok(()) => {
                if let Some(lasted) = self.read_outage.ends() {
                    tracing::info!(%group, event_type, ?lasted, "skipped events are read again");
                }
                // their rows are written: if this save fails, the next process reads the page once more
                self.save().await;
                true
            }
            Err(error) => {
                if self.read_outage.begins() {
                    tracing::warn!(%group, event_type, error = %ErrorLine(&*error), "skipped events not read, trying again");
                }
                false
            }
        }
    }

    async fn try_read_due_events(&self, resume: &ResumePoint, due: &DueRange) -> Result<(), BoxError> {
        let store = &*resume.store;
        let skipped = skipped_by_operators(store).await?;
        // before the events: one that is replayed from now on is delivered by its replay
        let dead = store.dead_positions(&self.group, Position::new(due.after)).await?;
        let dead: HashSet<Position> = dead.into_iter().collect();
        let DueEvents { mut events, through, mut unreadable } =
            announced_types::next_page(store, due, &skipped).await?;
        {
            let mut log = self.inner.log();
            let cursor = log.cursor(&self.group);
            // a former process wrote rows for these and ended before it saved how far the range is delivered; or they are
            // dead letters, whose rows must stay
            let is_new = |position: Position| !cursor.has_delivery(position) && !dead.contains(&position);
            events.retain(|event| event.position().is_some_and(is_new));
            unreadable.take_if(|position| cursor.unreadable().contains(*position) || dead.contains(position));
        }
        let row = |position| UnfinishedDelivery { position, attempts: DeliveryAttempts::default(), dead_since: None };
        let unfinished = events.iter().filter_map(RecordedEvent::position).chain(unreadable).map(row).collect();
        store.save_progress(&self.group, &ProgressUpdate { unfinished, ..ProgressUpdate::default() }).await?;
        let Some(mut log) = self.inner.log_of(resume) else { return Ok(()) };
        for event in &events {
            log.restore(&self.group, event, DeliveryAttempts::default());
        }
        let now = log.clock().now();
        let cursor = log.cursor(&self.group);
        if let Some(position) = unreadable {
            tracing::error!(
                group = %self.group, event_type = due.event_type, %position,
                "the store cannot read a skipped event, trying again every minute: repair its row, or skip it with \
                 `app.skip_published_event`"
            );
            cursor.unreadable_mut().add(position, DeliveryAttempts::default(), now);
        }
        cursor.types_mut().delivered_through(through);
        drop(log);
        // the other groups pass over the entries that were read for this one
        self.inner.notify_published();
        Ok(())
    }

    /// Reads entries again whose wait is over, after it has applied their dispositions and saved the end of their wait.
    async fn read_due_retries(&mut self) {
        self.apply_dispositions();
        let all_due = self.in_flight.take_due();
        let has_ended_wait = {
            let mut log = self.inner.log();
            let cursor = log.cursor(&self.group);
            let numbers = all_due.iter().filter_map(|due| self.entry_numbers.get(&due.id));
            numbers.filter(|number| cursor.end_waiting(**number)).count() > 0
        };
        if has_ended_wait {
            self.save().await;
        }
        let (mut entries, mut gone) = (Vec::new(), Vec::new());
        let mut log = self.inner.log();
        for due in all_due {
            let number = self.entry_numbers.get(&due.id);
            match number.and_then(|number| log.read_again(&self.group, *number)) {
                Some(entry) => entries.push(entry),
                None => gone.push(due.id),
            }
        }
        drop(log);
        for id in &gone {
            self.entry_numbers.remove(id);
        }
        self.in_flight.release(&gone);
        self.in_flight.resume(entries);
    }

    /// Applies the dispositions of entries, and releases the completed ones.
    fn apply_dispositions(&mut self) {
        let disposed = self.in_flight.take_disposed();
        if disposed.is_empty() {
            return;
        }
        let groups = self.inner.subscribers().groups();
        self.unsaved_count += disposed.len();
        self.unsaved_in_outage += disposed.len();
        let completed: Vec<_> = disposed.into_iter().filter_map(|disposed| self.apply_disposition(disposed)).collect();
        self.inner.log().trim(&groups);
        self.in_flight.release(&completed);
    }

    /// Applies the disposition of an entry; returns its id if it is completed.
    fn apply_disposition(&mut self, disposed: DisposedEntry) -> Option<MessageId> {
        let DisposedEntry { id, record, disposition } = disposed;
        let number = self.entry_numbers.get(&id).copied()?;
        let mut log = self.inner.log();
        if log.cursor(&self.group).is_suspect(number) {
            self.unsaved_count = CHECKPOINT_EVENTS_MAX; // else it would count as in flight if the process ended now
        }
        match disposition {
            Disposition::Acknowledge { .. } => log.cursor(&self.group).acknowledge(number),
            Disposition::Skip(attempts) => {
                let now = log.clock().unix_millis();
                let passed = log.cursor(&self.group).pass_unhandled(number, attempts, now);
                drop(log);
                if let (Some(record), Some(passed)) = (&record, passed) {
                    self.count_unhandled(record.event_type(), passed);
                }
            }
            Disposition::DeadLetter(attempts) | Disposition::Retry { attempts, of_newer_release: true, .. }
                if self.leaves_to_newer(&mut log, record.as_ref()) =>
            {
                log.cursor(&self.group).leave_for_handler(number, DeliveryAttempts::replayed(attempts.done));
            }
            Disposition::DeadLetter(attempts) => {
                self.inner.counters().messages_sent_to_dlq(1);
                log.move_to_dead_letters(&self.group, number, attempts);
                self.unsaved_count = CHECKPOINT_EVENTS_MAX;
            }
            Disposition::Retry { attempts, .. } => {
                log.cursor(&self.group).record_attempts(number, attempts);
                return None;
            }
            Disposition::Begin(attempts) => {
                log.cursor(&self.group).record_attempts(number, attempts);
                self.suspects_to_begin.push(id);
                return None;
            }
        }
        self.entry_numbers.remove(&id);
        Some(id)
    }

    /// Counts an event that no handler wants, and logs the first of its type.
    fn count_unhandled(&self, event_type: &Name, unhandled: Unhandled) {
        match unhandled {
            Unhandled::Skipped { is_first } => {
                self.inner.counters().events_skipped(1);
                if is_first {
                    log_skipped_type(&self.group, event_type);
                }
            }
            Unhandled::LeftPending { is_first: true } => tracing::warn!(
                group = %self.group, %event_type,
                "events are left: the group announced their type before, and no handler of it is here now; \
                 `forget_event_type` lets the group skip it"
            ),
            Unhandled::LeftPending { is_first: false } => {}
        }
    }

    fn leaves_to_newer(&self, log: &mut EntryLog, record: Option<&RecordedEvent>) -> bool {
        let types = log.cursor(&self.group).types();
        record.is_some_and(|record| types.leaves_to_newer(self.inner.subscribers(), &self.group, record))
    }

    /// Loads the progress of a group that came after the bus resumed. Returns `true` if it is loaded, or the bus has no
    /// store: then the group may begin.
    async fn load_progress(&mut self) -> bool {
        let (inner, group) = (&self.inner, &self.group);
        let Some(resume) = inner.resume_point() else {
            return true;
        };
        if inner.log().cursor(group).is_loaded() {
            return true;
        }
        inner.log().cursor(group).begin_load();
        match StoredProgress::load(&*resume.store, group, inner.subscribers()).await {
            Ok(progress) => {
                let Some(mut log) = inner.log_of(&resume) else { return false };
                let fed_from = resume.fed_from.max(log.highest_dropped().filter(|_| resume.fed_from.is_some()));
                progress.apply_to(&mut log, fed_from);
                drop(log);
                // the other groups pass over the entries that were read back for this one
                inner.notify_published();
                if let Some(lasted) = self.save_outage.ends() {
                    tracing::info!(%group, ?lasted, "progress is loaded now");
                }
                true
            }
            Err(error) => {
                if self.save_outage.begins() {
                    tracing::warn!(%group, %error, "progress not loaded, trying again");
                }
                false
            }
        }
    }

    /// Lets the suspects run whose start is saved.
    fn begin_suspects(&mut self) {
        self.in_flight.begin(&std::mem::take(&mut self.suspects_to_begin));
    }

    /// Saves the group's progress if there is much of it, or no entry is unread.
    async fn save_if_due(&mut self) {
        if self.unsaved_count >= CHECKPOINT_EVENTS_MAX || self.inner.log().unread(&self.group) == 0 {
            self.save().await;
        }
    }

    /// Saves the group's progress if there is any; after a failure a later round tries again.
    async fn save(&mut self) {
        self.unsaved_count = 0;
        if self.try_save().await {
            self.unsaved_in_outage = 0;
            self.is_held = false;
            self.begin_suspects();
        } else if self.unsaved_in_outage >= UNSAVED_EVENTS_MAX && !std::mem::replace(&mut self.is_held, true) {
            tracing::error!(
                group = %self.group, unsaved = self.unsaved_in_outage,
                "the group takes no more events until its progress is saved: the next process would handle all unsaved \
                 ones again"
            );
        }
    }

    /// Returns `false` if there was progress, and the store did not save it.
    async fn try_save(&mut self) -> bool {
        let (inner, group) = (&self.inner, &self.group);
        let Some(resume) = inner.resume_point() else {
            return true;
        };
        if let Err(error) = save_types(inner, &resume, group).await {
            if self.save_outage.begins() {
                tracing::warn!(%group, %error, "announced types and skipped ranges not saved, trying again");
            }
            return false;
        }
        // the store of a former feed gets no progress of this one
        let unsaved = inner.log_of(&resume).and_then(|mut log| log.cursor(group).begin_save());
        let Some(unsaved) = unsaved else {
            return true;
        };
        match save_progress(inner, &resume, group, &unsaved).await {
            Ok(()) => {
                let groups = inner.subscribers().groups();
                if let Some(mut log) = inner.log_of(&resume) {
                    log.cursor(group).mark_saved(unsaved);
                    log.trim(&groups);
                }
                if let Some(lasted) = self.save_outage.ends() {
                    tracing::info!(%group, ?lasted, "progress is saved again");
                }
                return true;
            }
            Err(error) if self.save_outage.begins() => {
                tracing::warn!(%group, %error, "progress not saved, trying again")
            }
            Err(error) => tracing::debug!(%group, %error, "progress still not saved"),
        }
        false
    }
}
