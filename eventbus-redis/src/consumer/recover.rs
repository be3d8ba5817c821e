//! Recovery on request. While it consumes, a consumer also recovers entries by itself.
//!
//! Real time, not the given clock: claims, by the clock of Redis.

use std::{collections::HashSet, sync::Arc, time::Duration};

use eventbus::{
    Name,
    delivery::{DisposedEntry, Disposition, InFlightEntry, RetryPolicy, dispatch},
    handler::Delivery,
    port::{ConsumeError, MessageId},
};
use parking_lot::Mutex;
use serde::Serialize;

use super::{
    acknowledger::{AckBatch, AckBatchOutcome},
    inner::{ConsumerInner, RANGE_START},
    new_in_flight,
    parts::ConsumerParts,
    receiver::ReclaimedEntries,
};
use crate::{
    command,
    error::{CommandError, boxed},
    inner::BusInner,
    reply, trace,
};

/// Time for which a recovery repeats a write that failed: a restart of the server, or a failover, takes less.
const WRITE_RETRY_TIME: Duration = Duration::from_secs(10);
/// Interval of these writes.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Limits of a recovery; a field that is `None` comes from the configuration.
///
/// # Examples
/// ```
/// use eventbus_redis::Recovery;
/// let recovery = Recovery { min_idle_time_ms: Some(30_000), ..Recovery::default() };
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Time in milliseconds that an entry must have been pending without a heartbeat. Default: `pending_idle_ms`.
    pub min_idle_time_ms: Option<u64>,
    /// Maximum number of retries before a failed delivery becomes a dead letter. Default: `max_retries`.
    pub max_retries: Option<u32>,
    /// Maximum number of entries to recover. Default: `batch_size`.
    pub batch_size: Option<usize>,
}

/// Numbers of entries that a recovery processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryStats {
    /// Entries that were pending in the group at the start.
    pub checked: u64,
    /// Entries that had been pending long enough and were reclaimed.
    pub claimed: u64,
    /// Entries whose handlers have all succeeded.
    pub reprocessed: u64,
    /// Entries that became dead letters.
    pub dlq: u64,
    /// Entries that failed again and stay pending.
    pub failed: u64,
}

impl RecoveryStats {
    fn add(&mut self, written: &AckBatchOutcome) {
        self.reprocessed += written.acknowledged;
        self.dlq += written.dead_lettered;
        self.failed += written.failed;
    }
}

/// Recovers entries of the bus's own group, under a consumer name of its own.
pub(crate) async fn recover(bus: &Arc<BusInner>, recovery: Recovery) -> Result<RecoveryStats, ConsumeError> {
    bus.ensure_consuming()?;
    // recoveries share a consumer name: two at once would take each other's entries as their own
    let _alone = bus.recovery_lock().lock().await;
    recover_stream(bus, recovery).await.map_err(|error| bus.unavailable(boxed(error)))
}

async fn recover_stream(bus: &Arc<BusInner>, recovery: Recovery) -> Result<RecoveryStats, CommandError> {
    let name = format!("{}-recovery", bus.consumer_name());
    let in_flight = new_in_flight(bus);
    let inner = ConsumerInner::with_name(Arc::clone(bus), bus.default_group().clone(), name, in_flight);
    let (run, mut stats) = (RecoveryRun::new(inner, recovery), RecoveryStats::default());
    run.recover(recovery, &mut stats).await?;
    run.parts.membership.deregister(&[], true).await?;
    Ok(stats)
}

/// One recovery of a stream.
struct RecoveryRun {
    parts: ConsumerParts,
    retry_policy: RetryPolicy,
}

impl RecoveryRun {
    fn new(inner: ConsumerInner, recovery: Recovery) -> Self {
        let policy = inner.retry_policy();
        let retry_policy = RetryPolicy { max_retries: recovery.max_retries.or(policy.max_retries), ..policy };
        Self { parts: ConsumerParts::new(inner), retry_policy }
    }

    async fn recover(&self, recovery: Recovery, stats: &mut RecoveryStats) -> Result<(), CommandError> {
        let config = self.parts.inner.bus().config();
        let (idle_ms, is_default) =
            (recovery.min_idle_time_ms.unwrap_or(config.pending_idle_ms), recovery.min_idle_time_ms.is_none());
        let mut left = recovery.batch_size.unwrap_or(config.batch_size);
        let pending = command::count_pending(self.parts.inner.bus().stream(), self.parts.inner.group());
        stats.checked +=
            command::parse_pending_count(self.parts.inner.bus().connection().query_idempotent(&pending).await?)?;
        if self.parts.inner.bus().subscribers().of_group(self.parts.inner.group()).is_empty() {
            return Ok(()); // no handlers
        }
        let mut cursor = RANGE_START.to_owned();
        while left > 0 {
            let count = left.min(config.batch_size).min(command::SCRIPT_BATCH_MAX);
            let (next, reclaimed) = self.parts.receiver.claim_page(&cursor, idle_ms, is_default, count).await?;
            let claimed = reclaimed.entries.len();
            stats.claimed += claimed as u64;
            left = left.saturating_sub(claimed);
            self.parts.receiver.log_recovered(claimed);
            self.handle_batch(reclaimed, stats).await?;
            cursor = next;
            if cursor == RANGE_START {
                break;
            }
        }
        Ok(())
    }

    /// Writes the batch, and repeats a failed write for a while: if the disposition of a suspect were lost after its
    /// handlers ended, the suspect would count as having ended its process.
    async fn write(&self, batch: &mut AckBatch) -> Result<AckBatchOutcome, CommandError> {
        let bus = self.parts.inner.bus();
        let clock = &bus.config().clock;
        let (began, mut written) = (clock.instant(), AckBatchOutcome::default());
        loop {
            let is_last = clock.elapsed(began) >= WRITE_RETRY_TIME || bus.consuming().is_closed();
            match self.parts.acknowledger.write(batch, &mut written).await {
                Err(error) if !is_last && is_temporary(&error) => {
                    tracing::debug!(%error, "dispositions could not be written");
                    clock.sleep(WRITE_RETRY_INTERVAL).await;
                }
                ended => return ended.map(|()| written),
            }
        }
    }

    async fn renew_claims(&self, ids: &[MessageId]) -> Result<(), CommandError> {
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX) {
            self.parts.membership.renew_claims(&[], ids).await?;
        }
        Ok(())
    }

    /// Handles entries once, without waiting for their retry times.
    async fn handle_batch(&self, reclaimed: ReclaimedEntries, stats: &mut RecoveryStats) -> Result<(), CommandError> {
        let entries = self.parts.receiver.prepare_reclaimed(reclaimed);
        let unfinished_ids: HashSet<MessageId> = entries.iter().map(|entry| entry.id.clone()).collect();
        let unfinished_ids = Mutex::new(unfinished_ids);
        let renewing = async {
            loop {
                tokio::time::sleep((self.parts.inner.pending_idle() / 3).max(Duration::from_millis(10))).await;
                let ids: Vec<_> = unfinished_ids.lock().iter().cloned().collect();
                if let Err(error) = self.renew_claims(&ids).await {
                    tracing::debug!(%error, "the claims could not be renewed");
                }
            }
        };
        let handling = async {
            let mut batch = AckBatch::default();
            let acknowledger = &self.parts.acknowledger;
            acknowledger.add(&mut batch, self.parts.inner.in_flight().take_disposed());
            let mut unfinished = HashSet::new();
            for mut entry in entries {
                let (id, stream) = (entry.id.clone(), entry.record.metadata().stream().clone());
                if unfinished.contains(&stream) {
                    stats.failed += 1; // must not overtake the unfinished one before it
                    continue;
                }
                // counts the run before it begins, so that an event that kills the process does not return for ever; no
                // other suspect runs beside it
                let bus = self.parts.inner.bus();
                let begun = entry.begin(&bus.config().clock);
                let _turn = match begun {
                    Some(_) => Some(bus.suspect_lock().acquire().await),
                    None => None,
                };
                let is_dead = matches!(begun, Some(Disposition::DeadLetter(_)));
                let begun = begun.map(|begun| DisposedEntry::new(id.clone(), Some(entry.record.clone()), begun));
                acknowledger.add(&mut batch, begun);
                let written = self.write(&mut batch).await?;
                stats.add(&written);
                if !is_dead && !written.lost.contains(&id) {
                    let disposed = self.handle_once(entry).await;
                    if !disposed.as_ref().is_some_and(|disposed_entry| is_final(&disposed_entry.disposition)) {
                        unfinished.insert(stream);
                    }
                    acknowledger.add(&mut batch, disposed);
                    stats.add(&self.write(&mut batch).await?);
                }
                unfinished_ids.lock().remove(&id);
            }
            stats.add(&self.write(&mut batch).await?);
            Ok(())
        };
        // the renewal has no end of its own: it stops with the handling
        tokio::select! {
            handled = handling => handled,
            () = renewing => Ok(()),
        }
    }

    async fn handle_once(&self, mut entry: InFlightEntry) -> Option<DisposedEntry> {
        let attempt = entry.attempts.attempts.saturating_add(1);
        let delivery = Delivery::new(entry.record.clone(), self.parts.inner.group().clone())
            .with_attempt(attempt)
            .with_message_id(entry.id.clone());
        let counters = self.parts.inner.bus().counters();
        counters.events_consumed(1);
        let subscribers = self.parts.inner.bus().subscribers().of_group(self.parts.inner.group());
        let bus = Arc::clone(self.parts.inner.bus());
        let span = move |delivery: &Delivery, handler: &Name| trace::delivery_span(&bus, delivery, handler);
        let clock = &self.parts.inner.bus().config().clock;
        let outcome =
            dispatch(&subscribers, &delivery, &entry.attempts, &self.parts.inner.limits(), clock, &span).await;
        outcome.count_in(counters);
        let disposition = Disposition::from_outcome(outcome, &mut entry.attempts, &self.retry_policy, clock)?;
        Some(DisposedEntry::new(entry.id, Some(entry.record), disposition))
    }
}

/// Returns `true` if a write that failed can succeed once the server is back.
fn is_temporary(error: &CommandError) -> bool {
    match error {
        CommandError::NotSent(_) => true,
        CommandError::Sent(refusal) => !command::is_group_missing(error) && !reply::is_refusal(refusal),
    }
}

/// Returns `true` if the next event of the aggregate may run.
const fn is_final(disposition: &Disposition) -> bool {
    matches!(disposition, Disposition::Acknowledge { .. } | Disposition::Skip | Disposition::DeadLetter(_))
}
