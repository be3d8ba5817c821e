//! Looks at the store each second: renews the leases of the shards, learns of other processes, of pauses and of changes by
//! operators, and acquires or releases shards.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Engine,
    handler_queue::startable_for,
    ownership::{HandlerShare, choose_acquired, choose_released, count_members},
    shard::Restored,
};
use crate::{
    domain::{error::ErrorLine, name::Name, record::RecordedEvent, stream::Position},
    port::{
        ReadError,
        handler_progress::{AcquiredShard, DeliveryRow, HandlerProgressError, Looked, Member, ShardId},
    },
};

/// The interval between two looks. Real time, as a store that expires leases does it by its own clock.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the looks of a process have found.
#[derive(Debug, Default)]
pub(super) struct LookState {
    wanted: Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The members that were live at some look: what a member runs never changes.
    members: HashMap<Name, Member>,
    live: BTreeSet<Name>,
    /// Since when a shard is free.
    free_since: HashMap<ShardId, Instant>,
    /// When the leases were last renewed.
    renewed_at: Option<Instant>,
    /// Set if the last look failed: what is free now may be the store's own outage.
    has_failed: bool,
}

impl LookState {
    /// Asks for a look at once.
    pub(super) fn notify(&self) {
        self.wanted.notify_one();
    }

    /// Returns the crates of other live members that define a handler of this name.
    pub(super) fn crates_of(&self, handler: &Name, own: &str) -> BTreeSet<String> {
        let known = self.known.lock();
        let live = known.live.iter().filter_map(|name| known.members.get(name));
        let crates = live.filter_map(|member| Some(member.handlers.get(handler)?.crate_name.clone()));
        crates.filter(|name| name != own).collect()
    }
}

impl Engine {
    /// Looks each second, until `cancel`.
    pub(super) async fn look_each_second(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let began = Instant::now();
            let looked = cancel.run_until_cancelled(self.look()).await;
            match looked {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    if !std::mem::replace(&mut self.look.known.lock().has_failed, true) {
                        tracing::warn!(error = %ErrorLine(&error), "the shards of handlers cannot be looked up, trying again");
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.look.wanted.notified() => {}
                () = tokio::time::sleep_until(began + LOOK_INTERVAL) => {}
            }
        }
    }

    /// Looks once.
    pub(super) async fn look(self: &Arc<Self>) -> Result<(), HandlerProgressError> {
        let progress = self.progress()?;
        let handlers: Vec<_> = self.queues().iter().map(|queue| queue.spec.name.clone()).collect();
        let owned: Vec<_> = self.queues().iter().flat_map(|queue| queue.owned()).collect();
        let is_renewed_before = |at: Instant| at.elapsed() < self.lease / 3;
        let renews = !self.look.known.lock().renewed_at.is_some_and(is_renewed_before);
        let (sent_at, clock) = (Instant::now(), self.clock().clone());
        let renewal_sent_at = clock.instant();
        let renew_for = renews.then_some(self.lease);
        let looked = progress.look(&self.member, &handlers, &owned, renew_for, self.lease).await?;
        let deadline = (!progress.lease_ends_with_process()).then(|| renewal_sent_at + startable_for(self.lease));
        for queue in self.queues() {
            if renews {
                queue.renew(&looked.held, deadline);
            }
            let is_change = queue.set_paused(looked.paused.contains(&queue.spec.group));
            if is_change {
                self.wake_backlog();
            }
        }
        for (shard, epoch) in &owned {
            if !looked.held.contains_key(shard)
                && let Some(queue) = self.queue(&shard.handler)
            {
                queue.forget(shard.number, *epoch);
            }
        }
        if renews {
            self.look.known.lock().renewed_at = Some(sent_at);
        }
        self.apply_changes(&looked).await?;
        let live = self.live_members(&looked).await?;
        self.share(&looked, &live, deadline).await?;
        self.queues().iter().for_each(|queue| self.start_workers(queue));
        Ok(())
    }

    /// Returns the live members.
    async fn live_members(&self, looked: &Looked) -> Result<Vec<Member>, HandlerProgressError> {
        let unknown: Vec<_> = {
            let known = self.look.known.lock();
            looked.members.iter().filter(|name| !known.members.contains_key(*name)).cloned().collect()
        };
        let found = if unknown.is_empty() { Vec::new() } else { self.progress()?.members(&unknown).await? };
        let mut known = self.look.known.lock();
        known.members.retain(|name, _| looked.members.contains(name));
        known.members.extend(found.into_iter().map(|member| (member.name.clone(), member)));
        known.live.clone_from(&looked.members);
        Ok(known.members.values().cloned().collect())
    }

    /// Acquires and releases shards by the rule of [`ownership`](super::ownership).
    async fn share(
        self: &Arc<Self>,
        looked: &Looked,
        live: &[Member],
        deadline: Option<Instant>,
    ) -> Result<(), HandlerProgressError> {
        let mut shares = BTreeMap::new();
        for queue in self.queues() {
            let Some(noted) = self.noted(&queue.spec.name) else { continue };
            let members = count_members(&queue.spec.name, noted.list_number(&queue.spec.types()), live);
            if members == 0 && queue.begin_release(None) > 0 {
                tracing::info!(handler = %queue.spec.name, "a process of a newer release takes the shards over");
                self.save.note_change(false);
            }
            shares.insert(
                queue.spec.name.clone(),
                HandlerShare { shards: noted.shards, owned: queue.staying(), members },
            );
        }
        if self.is_stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(());
        }
        let orphans = self.note_free(&looked.free);
        let Some(orphans) = orphans else { return Ok(()) };
        let wanted = choose_acquired(&shares, &looked.free, &orphans);
        if !wanted.is_empty() {
            let acquired = self.progress()?.acquire_shards(&self.member, &wanted, self.lease).await?;
            self.adopt(acquired, deadline).await?;
        } else if let Some(queue) = choose_released(&shares).and_then(|handler| self.queue(handler)) {
            queue.begin_release(Some(1));
            self.save.note_change(false);
        }
        Ok(())
    }

    /// Notes which shards are free, and returns those that nobody has acquired for the time of a lease; `None` if the look
    /// before failed: leases that were over during an outage of the store are renewed before they count as free.
    fn note_free(&self, free: &BTreeSet<ShardId>) -> Option<BTreeSet<ShardId>> {
        let mut known = self.look.known.lock();
        if std::mem::replace(&mut known.has_failed, false) {
            self.look.notify();
            return None;
        }
        let now = Instant::now();
        known.free_since.retain(|shard, _| free.contains(shard));
        for shard in free {
            known.free_since.entry(shard.clone()).or_insert(now);
        }
        let is_orphan = |(_, since): &(&ShardId, &Instant)| now - **since > self.lease;
        Some(known.free_since.iter().filter(is_orphan).map(|(shard, _)| shard.clone()).collect())
    }

    /// Owns the acquired shards: loads what their former owners did not finish.
    async fn adopt(
        self: &Arc<Self>,
        acquired: Vec<AcquiredShard>,
        deadline: Option<Instant>,
    ) -> Result<(), HandlerProgressError> {
        let shards: Vec<_> = acquired.iter().map(|acquired| acquired.shard.clone()).collect();
        let mut rows = self.progress()?.live_rows(&shards).await?;
        for acquired in acquired {
            let Some(queue) = self.queue(&acquired.shard.handler) else { continue };
            let Some(noted) = self.noted(&acquired.shard.handler) else { continue };
            let mut rows: BTreeMap<Position, DeliveryRow> =
                rows.remove(&acquired.shard).into_iter().flatten().map(|row| (row.position, row)).collect();
            let listed = acquired.waiting.iter().chain(&acquired.started).copied();
            let positions: BTreeSet<Position> = listed.chain(rows.keys().copied()).collect();
            let events = self.read_at(&positions).await.map_err(HandlerProgressError::new)?;
            let restored =
                events.into_iter().map(|(position, event)| Restored { position, event, row: rows.remove(&position) });
            queue.adopt(&acquired, restored.collect(), &noted.types, deadline, self.clock());
            tracing::debug!(shard = %acquired.shard, epoch = acquired.epoch, checkpoint = %acquired.checkpoint, "shard acquired");
        }
        self.wake_backlog();
        self.due.notify_one();
        self.save.note_change(false);
        Ok(())
    }

    /// Reads the events at these positions, in order. A missing one was removed from the store: nothing is left to do.
    async fn read_at(&self, positions: &BTreeSet<Position>) -> Result<Vec<(Position, RecordedEvent)>, ReadError> {
        let positions: Vec<_> = positions.iter().copied().collect();
        let mut events = Vec::with_capacity(positions.len());
        let mut next = 0;
        while next < positions.len() {
            let found = self.store().read_events_at(&positions[next..]).await;
            if found.is_empty() {
                break;
            }
            for event in found {
                if let Some(event) = event? {
                    events.push((positions[next], event));
                }
                next += 1;
            }
        }
        Ok(events)
    }

    /// Starts the dead letters that operators have replayed, and ends those that they have discarded.
    async fn apply_changes(self: &Arc<Self>, looked: &Looked) -> Result<(), HandlerProgressError> {
        for queue in self.queues() {
            for (shard, changes) in queue.changed(&looked.held) {
                // what ended before has no row any more after this
                self.save_round(false).await?;
                let rows = self.progress()?.live_rows(std::slice::from_ref(&shard)).await?;
                let rows = rows.into_values().next().unwrap_or_default();
                let held: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
                let mut missing: BTreeMap<_, _> =
                    queue.missing_rows(shard.number, rows).into_iter().map(|row| (row.position, row)).collect();
                let positions = missing.keys().copied().collect();
                let events = self.read_at(&positions).await.map_err(HandlerProgressError::new)?;
                let takes = |event: &RecordedEvent| queue.spec.events.matches(event.event_type());
                let replayed = events.into_iter().filter(|(_, event)| takes(event));
                let replayed = replayed.filter_map(|(position, event)| Some((event, missing.remove(&position)?)));
                queue.apply_changes((shard.number, changes), replayed.collect(), &held, self.clock());
            }
        }
        Ok(())
    }
}
