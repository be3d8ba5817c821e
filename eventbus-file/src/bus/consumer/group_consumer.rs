//! The consumer of one group: it owns the group, receives events, and records their outcomes.
//!
//! Invariant: the consumer saves that it received an event before a handler gets it, and the outcome before it releases
//! the event. The progress is one file, which only the owner of the latest epoch writes.
//!
//! Real time, not the given clock: other workers read the claim in files.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    mem,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name,
    delivery::{
        DeliveryAttempts, DisposedEntry, Disposition, DueRange, GroupContext, InFlight, InFlightEntry, Limits,
        StopSignal, Unhandled, handler_span, log_skipped_type, run_workers,
    },
    port::Announced,
    support::{Outage, PAGE_BYTES, source_chain},
};
use tokio::{sync::watch, time::Instant};

use super::{in_flight_update::InFlightUpdate, owned_progress::OwnedProgress};
use crate::{
    claim_store::Claim,
    error::{FileQueueError, Result},
    event::message_id,
    group_store::OwnedGroup,
    inner::QueueInner,
    log::{LogEntry, LogPage},
    poll_backoff::PollBackoff,
};

/// Delay before the retry after the file system refused.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Maximum number of open events: with so many, the consumer receives no new ones. They wait for a retry, behind an
/// event that does, or for a newer release. The file of the group has an entry for each, and each save writes the whole
/// file.
const OPEN_MAX: usize = 10_000;

/// Maximum number of events received at once; fewer if they reach [`PAGE_BYTES`].
const RECEIVE_BATCH_MAX: usize = 100;

/// An in-flight entry that was read again.
enum RereadEvent {
    Log(LogEntry),
    Replay(Option<InFlightEntry>),
}

/// The owner of a group's claim, from acquiring to losing or releasing it.
pub(super) struct Consumer<'a> {
    queue: &'a Arc<QueueInner>,
    group: &'a Name,
    claim: Claim,
    progress: OwnedProgress,
    /// In-flight events that are replays: the attempts of each are stored in its replay's file, not in the progress.
    replays: HashSet<u64>,
    /// Replays whose files could not be read.
    failed_replays: HashSet<u64>,
    /// Open events and replays that wait for a handler that is not here.
    without_handler: BTreeSet<u64>,
    /// Open events that are not in flight yet: those of the previous owner, and those that waited for a handler. Each
    /// has `true` if a process may have died in it. The consumer receives them before any new event.
    unread: VecDeque<(u64, bool)>,
    in_flight: Arc<InFlight>,
    poll_backoff: PollBackoff,
    /// Set if there may be more events to receive.
    has_more: bool,
    /// Set while [`OPEN_MAX`] events are open.
    is_full: bool,
    renew_at: Instant,
    /// When the claim expires, if it is not renewed before: from then on a different worker may have the group.
    expires_at: Instant,
    /// Time of the next attempt while the file system refuses.
    retry_at: Option<Instant>,
    /// Outage of the file system; it may outlast this consumer.
    outage: &'a mut Outage,
    /// Entries with a disposition that is not recorded yet.
    disposed: VecDeque<DisposedEntry>,
    /// Changes of the in-flight entries that wait until the progress is saved.
    update: InFlightUpdate,
    /// Signals that a handler was added or removed.
    subscriber_changes: watch::Receiver<()>,
    /// The types that the handlers here announced last; `progress.types` has those of the group.
    announced: Vec<Announced>,
}

impl<'a> Consumer<'a> {
    pub(super) fn new(queue: &'a Arc<QueueInner>, group: &'a Name, owned: OwnedGroup, outage: &'a mut Outage) -> Self {
        Self {
            unread: owned.progress.open.keys().map(|id| (*id, owned.was_abandoned)).collect(),
            in_flight: Arc::new(
                InFlight::new(
                    queue.config().max_in_flight,
                    queue.config().max_in_flight_bytes,
                    queue.config().clock.clone(),
                )
                .with_max_waiting(OPEN_MAX),
            ),
            poll_backoff: PollBackoff::new(queue),
            queue,
            group,
            expires_at: Instant::now() + owned.claim.remaining(),
            claim: owned.claim,
            progress: OwnedProgress::new(owned.progress),
            replays: HashSet::new(),
            failed_replays: HashSet::new(),
            without_handler: BTreeSet::new(),
            has_more: true,
            is_full: false,
            renew_at: Instant::now() + queue.config().group_expiration / 3,
            retry_at: None,
            outage,
            disposed: VecDeque::new(),
            update: InFlightUpdate::default(),
            subscriber_changes: queue.subscribers().watch(),
            announced: Vec::new(),
        }
    }

    fn group_context(&self) -> GroupContext {
        GroupContext {
            group: self.group.clone(),
            subscribers: self.queue.subscribers().clone(),
            counters: Arc::clone(self.queue.counters()),
            retry: self.queue.config().retry,
            limits: Limits { concurrency: self.queue.config().concurrency, ..Limits::default() },
            run_lock: self.queue.run_lock().clone(),
            span: Arc::new(handler_span),
        }
    }

    /// Runs `ask` for the group on a thread that may block on the file system.
    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&QueueInner, &Name) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let group = self.group.clone();
        self.queue.blocking(move |queue| ask(queue, &group)).await
    }

    /// Consumes until `stop`. Returns `true` if this worker lost the group.
    pub(super) async fn run(mut self, stop: &StopSignal) -> bool {
        let (context, in_flight) = (self.group_context(), Arc::clone(&self.in_flight));
        let mut working = pin!(run_workers(&in_flight, &context, stop));
        let mut cycle = self.run_cycle_until_expired().await;
        loop {
            match cycle {
                Ok(()) => {
                    self.retry_at = None;
                    if let Some(lasted) = self.outage.ends() {
                        tracing::info!(group = %self.group, ?lasted, "consuming goes on");
                    }
                }
                Err(FileQueueError::ClaimLost { .. }) => return true,
                Err(error) => {
                    if self.outage.begins() {
                        tracing::warn!(
                            group = %self.group, error = error.log(), "consuming was interrupted, trying again until it succeeds"
                        );
                    }
                    self.retry_at = Some(Instant::now() + RETRY_DELAY);
                    self.progress.set_dirty(true);
                }
            }
            let wake_at = self.retry_at.unwrap_or(self.renew_at).min(self.expires_at);
            // biased: first `working`, which runs the handlers, and whose end ends the loop; then outcomes, because
            // they make room for new events
            tokio::select! {
                biased;
                () = &mut working => break,
                () = in_flight.disposed(), if self.retry_at.is_none() => {}
                () = in_flight.due(), if self.retry_at.is_none() => {}
                () = wait_for_more(&in_flight, &mut self.poll_backoff, self.has_more), if self.retry_at.is_none() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
            cycle = self.run_cycle_until_expired().await;
        }
        in_flight.nack_unfinished();
        match self.finish().await {
            Err(FileQueueError::ClaimLost { .. }) => return true,
            Err(error) => {
                tracing::warn!(group = %self.group, error = error.log(), "cannot release the group, its claim expires")
            }
            Ok(()) => {}
        }
        false
    }

    /// Runs a cycle. Returns `ClaimLost` once the claim has expired, also if the file system refuses or does not answer:
    /// then the handlers must end.
    async fn run_cycle_until_expired(&mut self) -> Result<()> {
        let cycle = tokio::time::timeout_at(self.expires_at, self.run_cycle()).await;
        cycle.unwrap_or_else(|_| Err(self.claim_lost()))
    }

    fn claim_lost(&self) -> FileQueueError {
        FileQueueError::ClaimLost { claim_id: self.claim.claim_id.clone(), epoch: self.claim.epoch }
    }

    /// Records the outcomes of events, receives more, and renews the claim.
    async fn run_cycle(&mut self) -> Result<()> {
        self.check_same_queue().await?;
        self.record_outcomes().await?;
        // after the outcomes: an event that `record_outcomes` left for a handler later would wait for the next change
        // of the handlers
        self.announce_event_types();
        self.read_due().await?;
        self.receive_open().await?;
        let has_more_replays = self.receive_replays().await?;
        match self.unread.is_empty() {
            true => self.receive_new().await?,
            false => self.has_more = true,
        }
        self.has_more |= has_more_replays;
        if self.progress.is_dirty() || self.renew_at <= Instant::now() {
            self.save_progress(false).await?;
        }
        mem::take(&mut self.update).apply(&self.in_flight);
        Ok(())
    }

    /// Returns `ClaimLost` if the folder holds a different queue than the one whose events are in flight.
    async fn check_same_queue(&self) -> Result<()> {
        let known = self.progress.queue_id;
        let is_same = self.queue.blocking(move |queue| Ok(known == Some(queue.folder().queue_id()))).await?;
        if is_same { Ok(()) } else { Err(self.claim_lost()) }
    }

    async fn save_progress(&mut self, is_last: bool) -> Result<()> {
        let (claim, data) = (self.claim.clone(), self.progress.to_value()?);
        self.claim = self.queue.blocking(move |queue| queue.groups().save_progress(&claim, data, is_last)).await?;
        self.progress.set_dirty(false);
        self.renew_at = Instant::now() + self.queue.config().group_expiration / 3;
        self.expires_at = Instant::now() + self.claim.remaining();
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.record_outcomes().await?;
        self.progress.replays.clear(); // their handlers have ended
        self.save_progress(true).await?;
        self.queue.change_signal().send_replace(());
        Ok(())
    }

    /// Receives a page of open events that are not in flight, at most as many as there is room for.
    async fn receive_open(&mut self) -> Result<()> {
        let room = self.in_flight.room_beside(self.update.added.len()).min(RECEIVE_BATCH_MAX);
        let wanted: Vec<_> = self.unread.iter().take(room).map(|(id, _)| *id).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let first_epoch = self.progress.first_epoch;
        let read = move |queue: &QueueInner, group: &Name| {
            read_page(wanted, |id| {
                let entry = queue.log().read(id)?;
                let bytes = entry.payload_bytes();
                Ok(((entry, queue.dead_letters().has_dead_letter(id, group, first_epoch)?), bytes))
            })
        };
        let read = self.blocking(read).await?;
        let ids: Vec<_> = self.unread.drain(..read.len()).collect();
        for ((id, is_redelivered), (entry, is_dead_letter)) in ids.into_iter().zip(read) {
            match is_dead_letter {
                // the event became a dead letter, but the progress without it was not saved
                true => self.close(id),
                false => self.add_received(id, entry, is_redelivered),
            }
        }
        Ok(())
    }

    /// Adds an event that was read to the in-flight entries; closes it if it no longer exists.
    fn add_received(&mut self, id: u64, entry: LogEntry, is_redelivered: bool) {
        match entry {
            LogEntry::Event(event) => {
                let attempts = self.progress.open.entry(id).or_default().clone();
                let entry = InFlightEntry::new(event.message_id(), event.record().clone()).with_attempts(attempts);
                self.update.added.push(if is_redelivered { entry.redelivered() } else { entry });
            }
            LogEntry::Torn(error) => {
                let causes: Vec<_> = source_chain(&error).map(ToString::to_string).collect();
                let attempts = DeliveryAttempts::undecodable(causes.join(": "), &self.queue.config().clock);
                self.progress.open.insert(id, attempts.clone());
                self.update.undecodable.push((message_id(id), attempts));
            }
            LogEntry::Gap | LogEntry::Missing | LogEntry::Removed(_) => self.close(id),
        }
    }

    /// Reads a page of the due waiting events again. An event that was read no longer waits for its retry.
    async fn read_due(&mut self) -> Result<()> {
        let mut due = self.in_flight.take_due();
        if due.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = due.iter().filter_map(|due| due.id.as_str().parse::<u64>().ok()).collect();
        let replays = self.replays.clone();
        let read = move |queue: &QueueInner, group: &Name| {
            read_page(wanted, |id| {
                if !replays.contains(&id) {
                    let entry = queue.log().read(id)?;
                    let bytes = entry.payload_bytes();
                    return Ok((RereadEvent::Log(entry), bytes));
                }
                let replay = match queue.dead_letters().load_replay(id, group) {
                    // the file was damaged since the replay was received: `receive_replays` logs it, and passes it over
                    Err(FileQueueError::Torn { .. }) => None,
                    replay => replay?,
                };
                let bytes = payload_bytes(replay.as_ref());
                Ok((RereadEvent::Replay(replay), bytes))
            })
        };
        let read = match self.blocking(read).await {
            Ok(read) => read,
            Err(error) => {
                self.in_flight.return_due(due.iter().map(|due| &due.id));
                return Err(error);
            }
        };
        // they are still due, and wake the consumer
        self.in_flight.return_due(due.split_off(read.len()).iter().map(|due| &due.id));
        for (due, reread) in due.into_iter().zip(read) {
            let id = due.id.as_str().parse().unwrap_or_default();
            match reread {
                RereadEvent::Replay(Some(entry)) => self.update.resumed.push(entry),
                RereadEvent::Log(LogEntry::Event(event)) => {
                    let attempts = self.progress.resume(id, due.has_waited);
                    self.update
                        .resumed
                        .push(InFlightEntry::new(due.id, event.record().clone()).with_attempts(attempts));
                }
                RereadEvent::Log(torn_or_gone) => {
                    self.update.released.push(due.id);
                    self.add_received(id, torn_or_gone, false);
                }
                RereadEvent::Replay(None) => {
                    self.update.released.push(due.id);
                    self.close(id);
                }
            }
        }
        Ok(())
    }

    /// Receives a page of new replays, at most as many as there is room for. Returns `true` if more of them can be
    /// received.
    async fn receive_replays(&mut self) -> Result<bool> {
        let room = self.in_flight.room_beside(self.update.added.len()).min(RECEIVE_BATCH_MAX);
        let (known, failed, read) = (self.replays.clone(), self.failed_replays.clone(), self.progress.read);
        let load = move |queue: &QueueInner, group: &Name| {
            let mut ids = queue.dead_letters().list_replays(group)?;
            ids.retain(|id| !known.contains(id));
            if ids.iter().any(|id| *id > read) {
                // dead letters of before the group's retirement: the group has yet to receive these events, for all
                // its handlers
                let head = queue.log().head()?;
                ids.retain(|id| *id <= read || *id > head);
            }
            ids.sort_by_key(|id| failed.contains(id)); // readable ones first: they get the room
            let count = ids.len();
            ids.truncate(room);
            let page = read_page(ids, |id| {
                let entry = queue.dead_letters().load_replay(id, group);
                let bytes = payload_bytes(entry.as_ref().ok().and_then(Option::as_ref));
                Ok(((id, entry), bytes))
            })?;
            let has_more = page.len() < count;
            Ok((page, has_more))
        };
        let (page, has_more) = self.blocking(load).await?;
        let added_before = self.update.added.len();
        for (id, entry) in page {
            if self.progress.open.contains_key(&id) {
                continue; // the dead letter was replayed before a progress without the event was saved
            }
            match entry {
                Ok(Some(entry)) => {
                    // in the progress already: a process may have died in it
                    let is_redelivered = !self.progress.replays.insert(id);
                    self.update.added.push(if is_redelivered { entry.redelivered() } else { entry });
                    self.replays.insert(id);
                    self.failed_replays.remove(&id);
                }
                Ok(None) => {}
                Err(error) if error.is_folder_missing() => return Err(error),
                Err(error) if error.is_retryable() => {
                    if self.failed_replays.insert(id) {
                        tracing::warn!(group = %self.group, id, error = error.log(), "replay cannot be read, trying again");
                    }
                }
                Err(error) => {
                    tracing::error!(group = %self.group, id, error = error.log(), "unreadable replay passed over");
                    self.replays.insert(id);
                }
            }
        }
        // a page of which no replay can be received now is tried again after a pause
        Ok(has_more && self.update.added.len() > added_before)
    }

    /// Receives new events, as many as there is room for.
    async fn receive_new(&mut self) -> Result<()> {
        let room = self.in_flight.room_beside(self.update.added.len()).min(RECEIVE_BATCH_MAX).min(self.room_in_file());
        if room == 0 {
            return Ok(());
        }
        // not retries: `due` is a range of events that no handler wanted when the group received them
        if let Some(due) = self.progress.types.due().cloned() {
            return self.receive_skipped(due, room).await;
        }
        let after = self.progress.read;
        let LogPage { through, entries, has_more } =
            self.queue.blocking(move |queue| queue.log().read_after(after, room)).await?;
        self.has_more = has_more;
        if through != after {
            self.progress.read = through;
            self.poll_backoff.reset();
        }
        for (id, entry) in entries {
            self.add_received(id, entry, false);
        }
        Ok(())
    }

    /// Returns the number of events that may still be open; warns when it becomes 0.
    fn room_in_file(&mut self) -> usize {
        let room = OPEN_MAX.saturating_sub(self.progress.open.len());
        let was_full = mem::replace(&mut self.is_full, room == 0);
        if self.is_full {
            self.has_more = false; // it tries again after a pause
        }
        if self.is_full && !was_full {
            tracing::warn!(
                group = %self.group, open = OPEN_MAX,
                "the group receives no new events: so many wait for a retry or for a handler of a newer release"
            );
        }
        room
    }

    /// Receives events of a type that the group skipped, before any new event.
    async fn receive_skipped(&mut self, due: DueRange, room: usize) -> Result<()> {
        let page = self.queue.blocking(move |queue| queue.log().read_due_range(&due, room)).await?;
        self.progress.types.delivered_through(page.through);
        self.has_more = true;
        self.poll_backoff.reset();
        for (id, entry) in page.entries {
            self.add_received(id, entry, false);
        }
        Ok(())
    }

    /// Records the dispositions of events, in order; after an error, the next call continues with the rest.
    async fn record_outcomes(&mut self) -> Result<()> {
        self.disposed.extend(self.in_flight.take_disposed());
        while let Some(one) = self.disposed.pop_front() {
            if let Err(error) = self.record_outcome(&one).await {
                self.disposed.push_front(one);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn record_outcome(&mut self, one: &DisposedEntry) -> Result<()> {
        let Ok(id) = one.id.as_str().parse() else {
            return Ok(());
        };
        let counters = self.queue.counters();
        match &one.disposition {
            Disposition::Acknowledge { .. } => self.finish_event(id).await?,
            Disposition::Skip(attempts) => self.skip_unhandled(id, one, attempts.clone()).await?,
            Disposition::DeadLetter(attempts) | Disposition::Retry { attempts, of_newer_release: true, .. }
                if self.is_for_newer_release(one) =>
            {
                self.leave_for_handler(id, DeliveryAttempts::replayed(attempts.done.clone())).await?;
            }
            Disposition::DeadLetter(attempts) => {
                self.move_to_dead_letters(id, one, attempts.clone()).await?;
                counters.messages_sent_to_dlq(1);
            }
            Disposition::Retry { attempts, .. } => return self.save_attempts(id, attempts.clone()).await,
            Disposition::Begin(attempts) => {
                self.save_attempts(id, attempts.clone()).await?;
                self.update.begun.push(one.id.clone());
                return Ok(());
            }
        }
        self.update.released.push(one.id.clone());
        Ok(())
    }

    /// Closes an event that is finished; removes its file if it is a replay.
    async fn finish_event(&mut self, id: u64) -> Result<()> {
        if self.replays.contains(&id) {
            self.blocking(move |queue, group| queue.dead_letters().remove_replay(id, group)).await?;
        }
        self.close(id);
        Ok(())
    }

    fn close(&mut self, id: u64) {
        if !self.forget_replay(id) {
            self.progress.open.remove(&id);
        }
    }

    /// Makes a replay count as not received by this worker. Returns `false` if the event is not a replay.
    fn forget_replay(&mut self, id: u64) -> bool {
        let is_replay = self.replays.remove(&id);
        if is_replay {
            self.progress.replays.remove(&id);
        }
        is_replay
    }

    /// Saves the attempts of an event that stays open.
    async fn save_attempts(&mut self, id: u64, attempts: DeliveryAttempts) -> Result<()> {
        if self.replays.contains(&id) {
            return self
                .blocking(move |queue, group| queue.dead_letters().save_replay_attempts(id, group, attempts))
                .await;
        }
        self.progress.open.insert(id, attempts);
        Ok(())
    }

    async fn move_to_dead_letters(&mut self, id: u64, one: &DisposedEntry, attempts: DeliveryAttempts) -> Result<()> {
        let (record, claim, first_epoch) = (one.record.clone(), self.claim.clone(), self.progress.first_epoch);
        self.blocking(move |queue, group| {
            queue.groups().check_owned(&claim)?;
            queue.dead_letters().write_dead_letter(id, group, first_epoch, record.as_ref(), attempts)
        })
        .await?;
        self.close(id);
        Ok(())
    }

    /// Announces the event types of the handlers here if they changed. The events that waited for a handler are received
    /// again.
    fn announce_event_types(&mut self) {
        if !self.subscriber_changes.has_changed().unwrap_or_default() && !self.announced.is_empty() {
            return;
        }
        let announced = self.queue.subscribers().announced(self.group);
        if announced.is_empty() || announced == self.announced {
            self.subscriber_changes.mark_unchanged();
            return;
        }
        for id in mem::take(&mut self.without_handler) {
            // a replay is received again as a replay
            if !self.forget_replay(id) {
                self.unread.push_back((id, false));
            }
        }
        let (within, clock) = (self.queue.config().deliver_skipped_within, &self.queue.config().clock);
        for (event_type, range) in self.progress.types.announce(&announced, within, clock.unix_millis()) {
            range.skipped_before(self.group, event_type, clock).log();
        }
        self.subscriber_changes.mark_unchanged();
        self.announced = announced;
    }

    /// Records an event that no handler here wants: skips it, or leaves it with its attempts for a handler that is not
    /// here.
    async fn skip_unhandled(&mut self, id: u64, one: &DisposedEntry, attempts: DeliveryAttempts) -> Result<()> {
        let Some(record) = &one.record else {
            return self.finish_event(id).await;
        };
        let (group, event_type, is_replay) = (self.group, record.event_type(), self.replays.contains(&id));
        if self.progress.types.has_announced(event_type) && (is_replay || !attempts.is_empty()) {
            return self.leave_for_handler(id, attempts).await;
        }
        if is_replay {
            self.queue.counters().events_skipped(1);
            return self.finish_event(id).await;
        }
        match self.progress.types.note_unhandled(event_type, id, self.queue.config().clock.unix_millis()) {
            Unhandled::Skipped { is_first } => {
                self.queue.counters().events_skipped(1);
                if is_first {
                    log_skipped_type(group, event_type);
                }
            }
            Unhandled::LeftPending { is_first: true } => tracing::warn!(
                %group, %event_type,
                "events are left pending: the group announced their type before, and no handler of it is here now; \
                 `forget_event_type` lets the group skip it"
            ),
            _ => {}
        }
        self.finish_event(id).await
    }

    /// Saves the attempts of an event that the consumer receives again when the handlers here change.
    async fn leave_for_handler(&mut self, id: u64, attempts: DeliveryAttempts) -> Result<()> {
        self.save_attempts(id, attempts).await?;
        self.without_handler.insert(id);
        Ok(())
    }

    /// Returns `true` if an event that no handler here can decode is for a release that announced its schema version.
    fn is_for_newer_release(&self, one: &DisposedEntry) -> bool {
        let Some(record) = &one.record else {
            return false;
        };
        self.progress.types.leave_to_newer_release(self.queue.subscribers(), self.group, record)
    }
}

/// Reads items by their ids, in order, up to the one that reaches [`PAGE_BYTES`]; `read` returns an item and its size.
fn read_page<T>(ids: Vec<u64>, mut read: impl FnMut(u64) -> Result<(T, usize)>) -> Result<Vec<T>> {
    let (mut page, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        let (item, size) = read(id)?;
        page.push(item);
        bytes += size;
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

/// Returns the size of a replay's payload in bytes; 0 if there is no replay.
fn payload_bytes(replay: Option<&InFlightEntry>) -> usize {
    replay.map_or(0, |entry| entry.record.payload().len())
}

/// Waits until there is room for an entry, and there may be a new event.
async fn wait_for_more(in_flight: &InFlight, poll_backoff: &mut PollBackoff, has_more: bool) {
    in_flight.room().await;
    if !has_more {
        poll_backoff.wait().await;
    }
}

#[cfg(test)]
mod tests;
