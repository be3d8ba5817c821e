//! Recovery by hand, as the tutorial has it. A consumer does the same by itself while it consumes.
//!
//! Real time, not the given clock: claims, by the clock of Redis.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eventbus::{
    Name,
    port::{ConsumeError, Delivery, Hand, MessageId, RetryPolicy, Settled, Taken, Verdict, dispatch},
};
use redis::ScriptInvocation;
use serde::Serialize;

use super::{
    Consumer, Fence,
    intake::Retaken,
    paper::{Paper, Written},
    read::FIRST,
};
use crate::{
    bus::Shared,
    command,
    connection::{CommandError, boxed},
    keys, script, trace,
};

/// How long what may have ended its process waits for the bus's other deliveries to end.
const ALONE: Duration = Duration::from_secs(1);

/// What is to be recovered by hand; what is not said is taken from the configuration.
///
/// # Examples
/// ```
/// use eventbus_redis::Recovery;
/// let recovery = Recovery { min_idle_time_ms: Some(30_000), ..Recovery::default() };
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// How long an entry must have been pending without a sign of life, in milliseconds. Default: `pending_idle_ms`.
    pub min_idle_time_ms: Option<u64>,
    /// How often a failed delivery is tried again before it becomes a dead letter, at most. Default: `max_retries`.
    pub max_retries: Option<u32>,
    /// How many entries are recovered, at most. Default: `batch_size`.
    pub batch_size: Option<usize>,
}

/// What came of a recovery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryStats {
    /// Entries that were pending in the group when it began.
    pub checked: u64,
    /// Entries that had been pending long enough and were taken over.
    pub claimed: u64,
    /// Entries whose handlers have all succeeded now.
    pub reprocessed: u64,
    /// Entries that are dead letters now.
    pub dlq: u64,
    /// Entries that failed again and stay pending.
    pub failed: u64,
}

impl RecoveryStats {
    fn add(&mut self, written: &Written) {
        self.reprocessed += written.acknowledged;
        self.dlq += written.buried;
        self.failed += written.failed;
    }
}

impl Shared {
    /// Recovers entries of the bus's own group, under a consumer name that nothing else uses.
    pub(crate) async fn recover(self: &Arc<Self>, recovery: Recovery) -> Result<RecoveryStats, ConsumeError> {
        let destination = || self.destination.clone();
        if self.consuming.is_closed() {
            return Err(ConsumeError::ShutDown { destination: destination() });
        }
        let _alone = self.recovering.lock().await;
        let recovered = match self.partitions.is_empty() {
            true => self.recover_stream(recovery).await,
            false => self.recover_partitions(recovery).await,
        };
        recovered.map_err(|error| ConsumeError::Unavailable { destination: destination(), source: boxed(error) })
    }

    async fn recover_stream(self: &Arc<Self>, recovery: Recovery) -> Result<RecoveryStats, CommandError> {
        let name = format!("{}-recovery", self.consumer);
        let hand = Arc::new(Hand::new(self.config.in_hand(), self.config.max_in_hand_bytes, self.config.clock.clone()));
        let consumer = Consumer::with(Arc::clone(self), self.default_group.clone(), name, hand, None);
        let mut stats = RecoveryStats::default();
        consumer.recover(recovery, &mut stats).await?;
        consumer.leave(&[], true).await?;
        Ok(stats)
    }

    /// What is pending in a partition that has an owner is in good hands.
    async fn recover_partitions(&self, recovery: Recovery) -> Result<RecoveryStats, CommandError> {
        let mut stats = RecoveryStats::default();
        let owner = format!("{}-recovery", self.instance);
        let mut left = recovery.batch_size.unwrap_or(self.config.batch_size);
        for part in &self.partitions {
            let lease = keys::lease(&part.stream, &self.default_group);
            let epoch: String = self.link.rerun(&self.leasing(&lease, &owner)).await?;
            if epoch.is_empty() {
                let pending = command::count_pending(&part.stream, &self.default_group);
                stats.checked += command::pending_count(self.link.query(&pending).await?)?;
                continue;
            }
            let fence = Fence { lease: lease.clone(), owner: owner.clone(), epoch: epoch.clone() };
            let hand =
                Arc::new(Hand::new(self.config.in_hand(), self.config.max_in_hand_bytes, self.config.clock.clone()));
            let consumer = Consumer::of_partition(part, &self.default_group, &hand, fence);
            let claimed = stats.claimed;
            let recovered = consumer.recover(Recovery { batch_size: Some(left), ..recovery }, &mut stats).await;
            left = left.saturating_sub(usize::try_from(stats.claimed - claimed).unwrap_or(usize::MAX));
            self.link.rerun::<u64>(script::RELEASE.key(lease).arg(epoch)).await?;
            recovered?;
        }
        Ok(stats)
    }

    /// What takes or keeps a partition.
    fn leasing(&self, lease: &str, owner: &str) -> ScriptInvocation<'static> {
        let mut leasing = script::LEASE.key(lease);
        leasing.arg(owner).arg(self.config.partition_lease_ms);
        leasing
    }
}

impl Consumer {
    async fn recover(&self, recovery: Recovery, stats: &mut RecoveryStats) -> Result<(), CommandError> {
        let config = &self.shared.config;
        let idle_ms = recovery.min_idle_time_ms.unwrap_or(config.pending_idle_ms);
        let retry = RetryPolicy { max_retries: recovery.max_retries.or(config.max_retries), ..self.retry() };
        let mut left = recovery.batch_size.unwrap_or(config.batch_size);
        let pending = command::count_pending(&self.shared.stream, &self.group);
        stats.checked += command::pending_count(self.shared.link.query(&pending).await?)?;
        if self.shared.subscribers.of_group(&self.group).is_empty() {
            return Ok(()); // nobody here to handle anything
        }
        let mut cursor = FIRST.to_owned();
        while left > 0 {
            let count = left.min(config.batch_size).min(command::TOGETHER);
            let (next, retaken) = self.claim_some(&cursor, idle_ms, count).await?;
            let claimed = retaken.entries.len();
            stats.claimed += claimed as u64;
            left = left.saturating_sub(claimed);
            self.tell_recovered(claimed);
            self.handle_now(retaken, &retry, stats).await?;
            cursor = next;
            if cursor == FIRST {
                break;
            }
        }
        Ok(())
    }

    /// Keeps its claim on entries, or its partition.
    async fn show_life(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        match &self.fence {
            Some(Fence { lease, owner, .. }) => {
                self.shared.link.rerun::<String>(&self.shared.leasing(lease, owner)).await.map(drop)
            }
            None => self.beat_for(ids).await.map(drop),
        }
    }

    /// Handles entries once, whatever they are waiting for.
    async fn handle_now(
        &self,
        retaken: Retaken,
        retry: &RetryPolicy,
        stats: &mut RecoveryStats,
    ) -> Result<(), CommandError> {
        let taken = self.examine_again(retaken);
        let mine: HashSet<MessageId> = taken.iter().map(|taken| taken.id.clone()).collect();
        let mine = Mutex::new(mine);
        let beating = async {
            loop {
                let lease = Duration::from_millis(self.shared.config.partition_lease_ms);
                let is_shown_for = if self.fence.is_some() { lease } else { self.pending_idle() };
                tokio::time::sleep((is_shown_for / 3).max(Duration::from_millis(10))).await;
                let ids: Vec<_> = mine.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
                if let Err(error) = self.show_life(&ids).await {
                    tracing::debug!(%error, "no sign of life was given");
                }
            }
        };
        let handling = async {
            let mut paper = Paper::default();
            paper.add(self.hand.take_settled());
            let mut unfinished = HashSet::new();
            for mut taken in taken {
                let (id, stream) = (taken.id.clone(), taken.record.metadata().stream().clone());
                if unfinished.contains(&stream) {
                    stats.failed += 1; // it must not overtake the one before it
                    continue;
                }
                // an event that kills the process must not be recovered for ever
                let clock = &self.shared.config.clock;
                let is_suspect = taken.is_suspect(clock);
                let alone = match is_suspect {
                    true => clock.timeout(ALONE, self.shared.run_lock.alone()).await.ok(),
                    false => None,
                };
                let is_alone = alone.is_some();
                let _running = match alone {
                    Some(alone) => alone,
                    None => self.shared.run_lock.beside().await,
                };
                let mut begins = true;
                if is_suspect {
                    let before = taken.begin(is_alone, clock);
                    begins = matches!(before, Verdict::Begin(_));
                    paper.add([Settled::new(id.clone(), Some(taken.record.clone()), before)]);
                }
                let written = self.write(&mut paper).await?;
                stats.add(&written);
                if begins && !written.lost.contains(&id) {
                    let settled = self.handle_once(taken, retry).await;
                    if !settled.as_ref().is_some_and(|settled| is_done(&settled.verdict)) {
                        unfinished.insert(stream);
                    }
                    paper.add(settled);
                    stats.add(&self.write(&mut paper).await?);
                }
                mine.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            }
            stats.add(&self.write(&mut paper).await?);
            Ok(())
        };
        tokio::select! {
            handled = handling => handled,
            () = beating => Ok(()),
        }
    }

    async fn handle_once(&self, mut taken: Taken, retry: &RetryPolicy) -> Option<Settled> {
        let attempt = taken.tries.attempts.saturating_add(1);
        let delivery = Delivery::new(taken.record.clone(), self.group.clone())
            .with_attempt(attempt)
            .with_message_id(taken.id.clone());
        let counters = &self.shared.counters;
        counters.events_consumed(1);
        let subscribers = self.shared.subscribers.of_group(&self.group);
        let bus = Arc::clone(&self.shared);
        let span = move |delivery: &Delivery, handler: &Name| trace::handle(&bus, delivery, handler);
        let clock = &self.shared.config.clock;
        let outcome = dispatch(&subscribers, &delivery, &taken.tries, &self.limits(), clock, &span).await;
        counters.count(&outcome);
        let verdict = Verdict::of(outcome, &mut taken.tries, retry, clock)?;
        Some(Settled::new(taken.id, Some(taken.record), verdict))
    }
}

/// Whether the next event of the aggregate may follow.
const fn is_done(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Acknowledge { .. } | Verdict::Skip(_) | Verdict::Bury(_))
}
