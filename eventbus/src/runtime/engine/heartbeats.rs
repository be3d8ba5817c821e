//! The heartbeat of a process, each second: renews the leases of its shards, learns of other processes, of pauses and of
//! changes by operators, and acquires or releases shards.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    handler_queue::startable_for,
    ownership::{HandlerShare, choose_acquired, choose_released, count_members},
    saver::Saver,
    shard::Restored,
    shared::Shared,
    workers::Workers,
};
use crate::{
    domain::{error::ErrorLine, name::Name, record::RecordedEvent, stream::Position},
    port::{
        ReadError,
        handler_progress::{AcquiredShard, DeliveryRow, HandlerProgressError, Heartbeat, Member, MemberGuard, ShardId},
    },
};

/// The interval between two heartbeats. Real time, as a store that expires leases does it by its own clock.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A shard that no live process has acquired for this long is anyone's, whatever its share: the one whose share it is hangs,
/// or died just after it had joined.
const ORPHAN_AFTER: Duration = Duration::from_secs(2);
/// The longest wait for the store when the process leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the heartbeats of a process, and keeps what they have found.
pub(super) struct Heartbeats {
    shared: Arc<Shared>,
    saver: Arc<Saver>,
    workers: Arc<Workers>,
    /// Held for moments, never across a request.
    known: Mutex<Known>,
    /// The process as the store knows it; held for moments.
    joined: Mutex<Option<(Member, MemberGuard)>>,
    /// Set when the process acquires no shard any more.
    is_stopping: AtomicBool,
    /// Held while a heartbeat is under way.
    sending: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// The members that were live at some heartbeat: what a member runs never changes.
    members: HashMap<Name, Member>,
    live: BTreeSet<Name>,
    /// Since when a shard is free.
    free_since: HashMap<ShardId, Instant>,
    /// When the leases were last renewed.
    renewed_at: Option<Instant>,
    /// Set if the last heartbeat failed, or this one was slow: what is free now may be the store's own outage.
    has_failed: bool,
}

impl Heartbeats {
    pub(super) fn new(shared: Arc<Shared>, saver: Arc<Saver>, workers: Arc<Workers>) -> Self {
        let (known, joined) = (Mutex::default(), Mutex::default());
        let (is_stopping, sending) = Default::default();
        Self { shared, saver, workers, known, joined, is_stopping, sending }
    }

    /// Joins the members of the store.
    pub(super) async fn join(&self, member: Member) -> Result<(), HandlerProgressError> {
        let guard = self.shared.progress()?.join(&member).await?;
        *self.joined.lock() = Some((member, guard));
        Ok(())
    }

    /// Joins once more: the store has removed the process, because it was silent for long, or lost the row.
    async fn join_again(&self) -> Result<(), HandlerProgressError> {
        let member = self.joined.lock().as_ref().map(|(member, _)| member.clone());
        match member {
            Some(member) => self.join(member).await,
            None => Ok(()),
        }
    }

    /// Leaves the members of the store.
    pub(super) async fn leave(&self) {
        if let Ok(progress) = self.shared.progress() {
            // a store that does not answer removes the member later
            let _ = self.shared.clock().timeout(LEAVE_TIMEOUT, progress.leave(&self.shared.member)).await;
        }
        *self.joined.lock() = None;
    }

    /// Lets the process acquire no shard any more. A heartbeat under way may still acquire some, which start no event:
    /// waits for its end, so that the caller releases them too.
    pub(super) async fn stop_acquiring(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // a store that does not answer keeps the leases until they are over
        let _ = self.shared.clock().timeout(LEAVE_TIMEOUT, self.sending.lock()).await;
    }

    /// Returns the crates of other live members that define a handler of this name.
    pub(super) fn crates_of(&self, handler: &Name, own: &str) -> BTreeSet<String> {
        let known = self.known.lock();
        let live = known.live.iter().filter_map(|name| known.members.get(name));
        let crates = live.filter_map(|member| Some(member.handlers.get(handler)?.crate_name.clone()));
        crates.filter(|name| name != own).collect()
    }

    /// Sends a heartbeat each second, until `cancel`.
    pub(super) async fn run(&self, cancel: &CancellationToken) {
        let mut others = self.shared.store().appended().watch();
        loop {
            let began = Instant::now();
            match cancel.run_until_cancelled(self.send()).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    if !std::mem::replace(&mut self.known.lock().has_failed, true) {
                        tracing::warn!(error = %ErrorLine(&error), "no heartbeat of the handlers reached the store, trying again");
                    }
                }
            }
            // each branch only ends the pause
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.shared.heartbeat.notified() => {}
                () = others.left() => {}
                () = tokio::time::sleep_until(began + HEARTBEAT_INTERVAL) => {}
            }
        }
    }

    /// Sends a heartbeat once.
    pub(super) async fn send(&self) -> Result<(), HandlerProgressError> {
        let _sending = self.sending.lock().await;
        let progress = self.shared.progress()?;
        let handlers: Vec<_> = self.shared.queues().iter().map(|queue| queue.spec.name.clone()).collect();
        let owned: Vec<_> = self.shared.queues().iter().flat_map(|queue| queue.owned()).collect();
        let is_renewed_before = |at: Instant| at.elapsed() < self.shared.lease / 3;
        let renews = !self.known.lock().renewed_at.is_some_and(is_renewed_before);
        let sent_at = Instant::now();
        let renew_for = renews.then_some(self.shared.lease);
        let heartbeat =
            progress.heartbeat(&self.shared.member, &handlers, &owned, renew_for, self.shared.lease).await?;
        // it may have waited for the end of an outage
        if sent_at.elapsed() > HEARTBEAT_INTERVAL {
            self.known.lock().has_failed = true;
        }
        let deadline = (!progress.lease_ends_with_process()).then(|| sent_at + startable_for(self.shared.lease));
        for queue in self.shared.queues() {
            if renews {
                queue.renew(&heartbeat.held, deadline);
            }
            let is_change = queue.set_paused(heartbeat.paused.contains(&queue.spec.group));
            if is_change {
                self.shared.backlog.notify_one();
            }
        }
        for (shard, epoch) in &owned {
            if !heartbeat.held.contains_key(shard)
                && let Some(queue) = self.shared.queue(&shard.handler)
            {
                queue.forget(shard.number, *epoch);
            }
        }
        if renews {
            self.known.lock().renewed_at = Some(sent_at);
        }
        if !heartbeat.members.contains(&self.shared.member) {
            self.join_again().await?;
        }
        self.apply_changes(&heartbeat).await?;
        let live = self.live_members(&heartbeat).await?;
        self.share(&heartbeat, &live, deadline).await?;
        self.workers.start_all();
        Ok(())
    }

    /// Returns the live members.
    async fn live_members(&self, heartbeat: &Heartbeat) -> Result<Vec<Member>, HandlerProgressError> {
        let unknown: Vec<_> = {
            let known = self.known.lock();
            heartbeat.members.iter().filter(|name| !known.members.contains_key(*name)).cloned().collect()
        };
        let found = if unknown.is_empty() { Vec::new() } else { self.shared.progress()?.members(&unknown).await? };
        let mut known = self.known.lock();
        known.members.retain(|name, _| heartbeat.members.contains(name));
        known.members.extend(found.into_iter().map(|member| (member.name.clone(), member)));
        known.live.clone_from(&heartbeat.members);
        Ok(known.members.values().cloned().collect())
    }

    /// Acquires and releases shards by the rule of [`ownership`](super::ownership).
    async fn share(
        &self,
        heartbeat: &Heartbeat,
        live: &[Member],
        deadline: Option<Instant>,
    ) -> Result<(), HandlerProgressError> {
        let mut shares = BTreeMap::new();
        for queue in self.shared.queues() {
            let Some(noted) = self.shared.noted(&queue.spec.name) else { continue };
            let members = count_members(&queue.spec.name, noted.list_number(&queue.spec.types()), live);
            if members == 0 && queue.begin_release(None) > 0 {
                tracing::info!(handler = %queue.spec.name, "a process of a newer release takes the shards over");
                self.shared.note_change(false);
            }
            shares.insert(
                queue.spec.name.clone(),
                HandlerShare { shards: noted.shards, owned: queue.staying(), members },
            );
        }
        if self.is_stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        let orphans = self.note_free(&heartbeat.free);
        let Some(orphans) = orphans else { return Ok(()) };
        let wanted = choose_acquired(&shares, &heartbeat.free, &orphans);
        if !wanted.is_empty() {
            let acquired =
                self.shared.progress()?.acquire_shards(&self.shared.member, &wanted, self.shared.lease).await?;
            self.load_acquired(acquired, deadline).await?;
        } else if let Some(queue) = choose_released(&shares).and_then(|handler| self.shared.queue(handler)) {
            queue.begin_release(Some(1));
            self.shared.note_change(false);
        }
        Ok(())
    }

    /// Notes which shards are free, and returns those that no process has acquired for [`ORPHAN_AFTER`].
    ///
    /// `None` after a failed or slow heartbeat: the processes first renew the leases that ran out during an outage of the
    /// store, and a shard counts as free only at the next heartbeat.
    fn note_free(&self, free: &BTreeSet<ShardId>) -> Option<BTreeSet<ShardId>> {
        let mut known = self.known.lock();
        if std::mem::replace(&mut known.has_failed, false) {
            return None;
        }
        let now = Instant::now();
        known.free_since.retain(|shard, _| free.contains(shard));
        for shard in free {
            known.free_since.entry(shard.clone()).or_insert(now);
        }
        let is_orphan = |(_, since): &(&ShardId, &Instant)| now - **since > ORPHAN_AFTER;
        Some(known.free_since.iter().filter(is_orphan).map(|(shard, _)| shard.clone()).collect())
    }

    /// Owns the acquired shards: loads what their former owners did not finish.
    async fn load_acquired(
        &self,
        acquired: Vec<AcquiredShard>,
        deadline: Option<Instant>,
    ) -> Result<(), HandlerProgressError> {
        let shards: Vec<_> = acquired.iter().map(|acquired| acquired.shard.clone()).collect();
        let mut rows = self.shared.progress()?.live_rows(&shards).await?;
        let head = match acquired.iter().any(|acquired| acquired.unclean > 0) {
            true => self.shared.store().head().await.map_err(HandlerProgressError::new)?,
            false => Position::START,
        };
        for acquired in acquired {
            let Some(queue) = self.shared.queue(&acquired.shard.handler) else { continue };
            let Some(noted) = self.shared.noted(&acquired.shard.handler) else { continue };
            let mut rows: BTreeMap<Position, DeliveryRow> =
                rows.remove(&acquired.shard).into_iter().flatten().map(|row| (row.position, row)).collect();
            let listed = acquired.waiting.iter().chain(&acquired.started).copied();
            let positions: BTreeSet<Position> = listed.chain(rows.keys().copied()).collect();
            let events = self.read_at(&positions).await.map_err(HandlerProgressError::new)?;
            let restored =
                events.into_iter().map(|(position, event)| Restored { position, event, row: rows.remove(&position) });
            queue.acquire(&acquired, restored.collect(), (&noted.types, head), deadline, self.shared.clock());
            if self.is_stopping.load(Ordering::Relaxed) {
                queue.begin_release(None);
            }
            tracing::debug!(shard = %acquired.shard, epoch = acquired.epoch, checkpoint = %acquired.checkpoint, "shard acquired");
        }
        self.shared.backlog.notify_one();
        self.shared.due.notify_one();
        self.shared.note_change(false);
        Ok(())
    }

    /// Reads the events at these positions, in order. One that was removed from the store, or
    /// that an operator has skipped because it cannot be read, is left out.
    async fn read_at(&self, positions: &BTreeSet<Position>) -> Result<Vec<(Position, RecordedEvent)>, ReadError> {
        let positions: Vec<_> = positions.iter().copied().collect();
        let mut events = Vec::with_capacity(positions.len());
        let mut next = 0;
        while next < positions.len() {
            let found = self.shared.store().read_events_at(&positions[next..]).await;
            if found.is_empty() {
                break;
            }
            for event in found {
                match event {
                    Ok(Some(event)) => events.push((positions[next], event)),
                    Ok(None) => {}
                    Err(error) => {
                        let skipped = self.shared.skipped(error).await;
                        skipped.inspect_err(|error| self.shared.note_feed_error(error))?;
                    }
                }
                next += 1;
            }
        }
        Ok(events)
    }

    /// Starts the dead letters that operators have replayed, and ends those that they have discarded.
    async fn apply_changes(&self, heartbeat: &Heartbeat) -> Result<(), HandlerProgressError> {
        for queue in self.shared.queues() {
            for (shard, changes) in queue.changed(&heartbeat.held) {
                // what ended before has no row any more after this
                self.saver.save(false).await?;
                let rows = self.shared.progress()?.live_rows(std::slice::from_ref(&shard)).await?;
                let rows = rows.into_values().next().unwrap_or_default();
                let held: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
                let mut missing: BTreeMap<_, _> =
                    queue.missing_rows(shard.number, rows).into_iter().map(|row| (row.position, row)).collect();
                let positions = missing.keys().copied().collect();
                let events = self.read_at(&positions).await.map_err(HandlerProgressError::new)?;
                let takes = |event: &RecordedEvent| queue.spec.events.matches(event.event_type());
                let replayed = events.into_iter().filter(|(_, event)| takes(event));
                let replayed = replayed.filter_map(|(position, event)| Some((event, missing.remove(&position)?)));
                queue.apply_changes((shard.number, changes), replayed.collect(), &held, self.shared.clock());
            }
        }
        Ok(())
    }
}
