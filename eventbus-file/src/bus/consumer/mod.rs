//! The consumer of one group: it owns the group, receives events, and records their outcomes.
//!
//! Invariant: the consumer saves that it received an event before a handler gets it, and the outcome before it releases
//! the event. The progress is one file, which only the owner of the latest epoch writes.
//!
//! Real time, not the given clock: other workers read the claim in files.

mod event_types;
mod outcomes;
mod receive;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use eventbus::{
    Name,
    port::{
        Announced, DeliveryAttempts, DisposedEntry, GroupContext, InFlight, InFlightEntry, Limits, MessageId, Outage,
        StopSignal, handler_span, run_workers,
    },
};
use tokio::{sync::watch, time::Instant};

use crate::{
    error::{FileQueueError, Result},
    group_store::OwnedGroup,
    inner::QueueInner,
    poll_backoff::PollBackoff,
};

/// Delay before the retry after the file system refused.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Maximum number of events that wait for a retry, or are parked behind one that does: the file of the group has an
/// entry for each, and is written as a whole.
const WAITING_MAX: usize = 10_000;

/// Consumes for a group whenever no other worker does, until `stop`.
///
/// | state | event | next state |
/// |---|---|---|
/// | standby | the group's claim is free, and this worker acquires it | owner |
/// | standby | a different worker owns the claim, or the file system refuses | standby, polls again |
/// | owner | a cycle succeeds: the claim is renewed | owner |
/// | owner | the file system refuses | owner, retries until the claim expires |
/// | owner | the claim expired or passed on, or the folder holds a new queue | standby; nothing is written |
/// | owner | `stop`, and the running handlers have ended | stopped, with the claim released |
/// | standby | `stop` | stopped |
pub(super) async fn consume(queue: Arc<QueueInner>, group: Name, stop: StopSignal) {
    let mut poll_backoff = PollBackoff::new(&queue);
    let (mut is_standby, mut outage) = (false, Outage::new(queue.config.clock.clone()));
    while !stop.is_stopped() {
        let key = group.clone();
        let acquired = queue.blocking(move |queue| queue.groups.acquire_group(&key, &queue.subscribers)).await;
        if acquired.is_ok()
            && let Some(lasted) = outage.ends()
        {
            tracing::info!(%group, ?lasted, "the group can be consumed for again");
        }
        match acquired {
            Ok(Some(owned)) => {
                tracing::debug!(%group, epoch = owned.claim.epoch, "consuming for the group");
                let worker_id = owned.claim.worker_id.clone();
                let was_lost = Consumer::new(&queue, &group, owned, &mut outage).run(&stop).await;
                if was_lost {
                    tracing::warn!(
                        %group,
                        worker_id,
                        "this worker lost the group: a different worker, or a process with the same worker id, took it \
                         over, its claim expired, or the folder was made anew"
                    );
                }
                is_standby = false;
                poll_backoff.reset();
                continue;
            }
            Ok(None) => {
                if !std::mem::replace(&mut is_standby, true) {
                    tracing::info!(
                        %group, "a different worker consumes for the group, this one takes over when the claim expires"
                    );
                }
            }
            Err(error) => {
                if outage.begins() {
                    tracing::error!(%group, error = error.log(), "cannot consume for the group, trying again");
                }
            }
        }
        // a release of the claim by its owner also wakes `poll_backoff`
        tokio::select! {
            () = stop.stopped() => {}
            () = poll_backoff.wait() => {}
        }
    }
}

/// The owner of a group's claim, from acquiring to losing or releasing it.
struct Consumer<'a> {
    queue: &'a Arc<QueueInner>,
    group: &'a Name,
    owned: OwnedGroup,
    in_flight: Arc<InFlight>,
    poll_backoff: PollBackoff,
    /// Set if there may be more events to receive.
    has_more: bool,
    /// Set if the progress has changes that are not saved.
    is_dirty: bool,
    renew_at: Instant,
    /// Time of the next attempt while the file system refuses.
    retry_at: Option<Instant>,
    /// Outage of the file system; it may outlast this consumer.
    outage: &'a mut Outage,
    /// Set if the previous owner may have died in a replay.
    was_abandoned: bool,
    /// Entries with a disposition that is not recorded yet.
    disposed: VecDeque<DisposedEntry>,
    /// Changes of the in-flight entries that wait until the progress is saved.
    to_release: Vec<MessageId>,
    to_begin: Vec<MessageId>,
    to_add: Vec<InFlightEntry>,
    undecodable: Vec<(MessageId, DeliveryAttempts)>,
    to_resume: Vec<InFlightEntry>,
    /// In-flight events that are replays.
    replays: HashSet<u64>,
    /// Open events that wait for a handler that is not here.
    without_handler: BTreeSet<u64>,
    /// Signals that a handler came or went.
    subscriber_changes: watch::Receiver<()>,
    /// The types that the handlers announced last.
    announced: Vec<Announced>,
}

impl<'a> Consumer<'a> {
    fn new(queue: &'a Arc<QueueInner>, group: &'a Name, owned: OwnedGroup, outage: &'a mut Outage) -> Self {
        Self {
            was_abandoned: owned.was_abandoned,
            in_flight: Arc::new(
                InFlight::new(queue.config.max_in_flight, queue.config.max_in_flight_bytes, queue.config.clock.clone())
                    .with_max_waiting(WAITING_MAX),
            ),
            poll_backoff: PollBackoff::new(queue),
            queue,
            group,
            owned,
            has_more: true,
            is_dirty: false,
            renew_at: Instant::now() + queue.config.group_expiration / 3,
            retry_at: None,
            outage,
            disposed: VecDeque::new(),
            to_release: Vec::new(),
            to_begin: Vec::new(),
            to_add: Vec::new(),
            undecodable: Vec::new(),
            to_resume: Vec::new(),
            replays: HashSet::new(),
            without_handler: BTreeSet::new(),
            subscriber_changes: queue.subscribers.watch(),
            announced: Vec::new(),
        }
    }

    fn group_context(&self) -> GroupContext {
        GroupContext {
            group: self.group.clone(),
            subscribers: self.queue.subscribers.clone(),
            counters: Arc::clone(&self.queue.counters),
            retry: self.queue.config.retry,
            limits: Limits { concurrency: self.queue.config.concurrency, ..Limits::default() },
            run_lock: self.queue.run_lock.clone(),
            span: Arc::new(handler_span),
        }
    }

    /// Consumes until `stop`. Returns `true` if this worker lost the group.
    async fn run(mut self, stop: &StopSignal) -> bool {
        let (context, in_flight) = (self.group_context(), Arc::clone(&self.in_flight));
        let mut working = pin!(run_workers(&in_flight, &context, stop));
        while let Err(error) = self.receive_redelivered().await {
            if self.outage.begins() {
                tracing::warn!(group = %self.group, error = error.log(), "open events not read yet, trying again");
            }
            if matches!(error, FileQueueError::ClaimLost { .. }) || !self.owned.claim.is_live() {
                return true;
            }
            // nothing is in flight yet: a stop need not wait for handlers
            tokio::select! {
                () = stop.stopped() => return false,
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        }
        let mut cycle = self.run_cycle().await;
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
                    self.is_dirty = true;
                }
            }
            let wake_at = self.retry_at.unwrap_or(self.renew_at);
            // biased: `working` runs the handlers and ends the loop; then outcomes, as they make room for new events
            tokio::select! {
                biased;
                () = &mut working => break,
                () = in_flight.disposed(), if self.retry_at.is_none() => {}
                () = in_flight.due(), if self.retry_at.is_none() => {}
                () = wait_for_more(&in_flight, &mut self.poll_backoff, self.has_more), if self.retry_at.is_none() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
            cycle = self.run_cycle().await;
        }
        in_flight.nack_idle();
        match self.finish().await {
            Err(FileQueueError::ClaimLost { .. }) => return true,
            Err(error) => {
                tracing::warn!(group = %self.group, error = error.log(), "cannot release the group, its claim expires")
            }
            Ok(()) => {}
        }
        false
    }

    /// Records the outcomes of events, receives more, and renews the claim.
    async fn run_cycle(&mut self) -> Result<()> {
        self.check_same_queue().await?;
        self.record_outcomes().await?;
        // after the outcomes: an event left without a handler later would not be received again for one announced here
        self.announce_event_types().await?;
        self.read_due().await?;
        self.receive_replays().await?;
        self.receive_new().await?;
        if self.is_dirty || self.renew_at <= Instant::now() {
            self.save_progress(false).await?;
        }
        self.update_in_flight();
        Ok(())
    }

    /// Returns `ClaimLost` if the folder holds a different queue than the one whose events are in flight.
    async fn check_same_queue(&self) -> Result<()> {
        let (claim, known) = (self.owned.claim.clone(), self.owned.progress.queue_id);
        let is_same = self.queue.blocking(move |queue| Ok(known == Some(queue.folder.queue_id()))).await?;
        match is_same {
            true => Ok(()),
            false => Err(FileQueueError::ClaimLost { claim_id: claim.claim_id, epoch: claim.epoch }),
        }
    }

    /// Applies the changes that waited for the progress to the in-flight entries.
    fn update_in_flight(&mut self) {
        self.in_flight.release(&std::mem::take(&mut self.to_release));
        self.in_flight.begin(&std::mem::take(&mut self.to_begin));
        self.in_flight.resume(std::mem::take(&mut self.to_resume));
        self.in_flight.add(std::mem::take(&mut self.to_add));
        for (id, attempts) in std::mem::take(&mut self.undecodable) {
            self.in_flight.add_undecodable(id, attempts);
        }
    }

    async fn save_progress(&mut self, is_last: bool) -> Result<()> {
        let (claim, data) = (self.owned.claim.clone(), self.owned.progress.to_value()?);
        self.owned.claim = self.queue.blocking(move |queue| queue.groups.save_progress(&claim, data, is_last)).await?;
        self.is_dirty = false;
        self.renew_at = Instant::now() + self.queue.config.group_expiration / 3;
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.record_outcomes().await?;
        self.save_progress(true).await?;
        self.queue.change_signal.send_replace(());
        Ok(())
    }
}

/// Waits until there is room for an entry, and there may be a new event.
async fn wait_for_more(in_flight: &InFlight, poll_backoff: &mut PollBackoff, has_more: bool) {
    in_flight.room().await;
    if !has_more {
        poll_backoff.wait().await;
    }
}
