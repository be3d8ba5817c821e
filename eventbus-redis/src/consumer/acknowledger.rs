//! The acknowledger: writes dispositions, sends heartbeats, renews claims, and reclaims entries of dead consumers.
//!
//! Real time, not the given clock: claims, by the clock of Redis, and its replies.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use eventbus::port::MessageId;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Consumer,
    ack_batch::{AckBatch, add_ids},
    handoff::HandoffCursor,
    membership::TypeMismatches,
    read::RANGE_START,
    task_loop::FailedTasks,
};
use crate::{command, error::CommandError, script};

/// Interval between two attempts to write a batch that failed.
pub(super) const ACK_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time for the running task, and then for the final write, when the consumer ends.
pub(super) const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_millis(800);
/// Longest interval between two heartbeats.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Longest interval between two searches for entries of dead consumers.
pub(super) const CLAIM_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Shortest interval of heartbeats and searches.
const MAINTENANCE_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// State of the acknowledger between two tasks.
pub(super) struct Acknowledger {
    batch: AckBatch,
    failed_tasks: FailedTasks<AcknowledgerTask>,
    /// Entries whose claim is still to be renewed: some at a time, so that no acknowledgement waits for all.
    claims_to_renew: Vec<MessageId>,
    /// Cursor of the search for entries of dead consumers.
    pub(super) claim_cursor: String,
    /// Cursor of the search for unused attempt records.
    pub(super) garbage_cursor: String,
    /// Cursor of the renewal of handed-off entries.
    pub(super) renew_from: String,
    pub(super) handoff_cursor: HandoffCursor,
    /// Entries that the last heartbeat found pending on this consumer and not in flight.
    pub(super) missing: HashSet<String>,
    pub(super) type_mismatches: TypeMismatches,
    /// Set once a live consumer of the same name was logged.
    pub(super) has_duplicate_name: bool,
}

/// A task of the acknowledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcknowledgerTask {
    WriteBatch,
    ReadDue,
    RenewClaims,
    Heartbeat,
    ClaimIdle,
    CollectGarbage,
    /// Both at once, when the consumer has joined its group: neither waits for its interval.
    HeartbeatAndClaim,
}

/// Returns an interval that first ticks after one period; a late tick delays those after it.
fn delayed_interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Consumer {
    /// Runs until workers and reader have ended, then writes the rest and deregisters the consumer.
    pub(super) async fn run_acknowledger(&self, ended: &CancellationToken) {
        let mut acknowledger = Acknowledger {
            batch: AckBatch::default(),
            failed_tasks: FailedTasks::new("acknowledging", self.group.clone()),
            claims_to_renew: Vec::new(),
            claim_cursor: RANGE_START.into(),
            garbage_cursor: "0".into(),
            renew_from: RANGE_START.into(),
            handoff_cursor: HandoffCursor::default(),
            missing: HashSet::new(),
            type_mismatches: TypeMismatches::new(),
            has_duplicate_name: false,
        };
        let idle = self.pending_idle();
        let (mut write, mut renewal) = (delayed_interval(ACK_RETRY_INTERVAL), delayed_interval(idle / 3));
        let (mut heartbeat, mut claim) = (
            delayed_interval(self.heartbeat_interval()),
            delayed_interval((idle / 6).clamp(MAINTENANCE_INTERVAL_MIN, CLAIM_INTERVAL_MAX)),
        );
        let mut garbage_collection = delayed_interval(idle.max(CLAIM_INTERVAL_MAX));
        let mut changes = self.bus.subscribers().watch();
        loop {
            let writes = !acknowledger.failed_tasks.contains(AcknowledgerTask::WriteBatch);
            let renewal_failed = acknowledger.failed_tasks.contains(AcknowledgerTask::RenewClaims);
            let unwritten = !acknowledger.batch.is_empty() || !self.discarded().is_empty();
            let gathers_until = acknowledger.batch.gathers_until();
            let (retry, retry_at) = (acknowledger.failed_tasks.first(), acknowledger.failed_tasks.retry_at());
            // unbiased: a branch that is always ready must not starve the heartbeat
            let task = tokio::select! {
                () = ended.cancelled() => break,
                () = sleep_until(retry_at), if retry.is_some() => retry.unwrap_or(AcknowledgerTask::WriteBatch),
                () = self.in_flight.disposed(), if writes => AcknowledgerTask::WriteBatch,
                _ = write.tick(), if writes && unwritten => AcknowledgerTask::WriteBatch,
                () = sleep_until(gathers_until.unwrap_or(retry_at)), if writes && gathers_until.is_some() => AcknowledgerTask::WriteBatch,
                () = self.in_flight.due(), if writes && !acknowledger.failed_tasks.contains(AcknowledgerTask::ReadDue) => AcknowledgerTask::ReadDue,
                () = self.caught_up_signal.notified() => AcknowledgerTask::HeartbeatAndClaim,
                _ = renewal.tick(), if acknowledger.claims_to_renew.is_empty() => {
                    acknowledger.claims_to_renew = self.in_flight.ids();
                    acknowledger.claims_to_renew.extend(self.kept_pending().iter().cloned());
                    AcknowledgerTask::RenewClaims
                }
                () = std::future::ready(()), if !acknowledger.claims_to_renew.is_empty() && !renewal_failed => AcknowledgerTask::RenewClaims,
                _ = heartbeat.tick() => AcknowledgerTask::Heartbeat,
                _ = changes.changed() => AcknowledgerTask::Heartbeat,
                _ = claim.tick() => AcknowledgerTask::ClaimIdle,
                _ = garbage_collection.tick() => AcknowledgerTask::CollectGarbage,
            };
            let in_vain = async {
                ended.cancelled().await;
                tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
            };
            // a task that hangs must not outlast the grace period
            let result = tokio::select! {
                done = self.run_task(task, &mut acknowledger) => done,
                () = in_vain => break, // `shut_down` repeats an interrupted write
            };
            acknowledger.failed_tasks.record_result(task, result);
        }
        self.shut_down(&mut acknowledger).await;
    }

    /// Returns the interval between two heartbeats.
    pub(super) fn heartbeat_interval(&self) -> Duration {
        (self.pending_idle() / 6).clamp(MAINTENANCE_INTERVAL_MIN, HEARTBEAT_INTERVAL_MAX)
    }

    async fn run_task(&self, task: AcknowledgerTask, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        let done = match task {
            AcknowledgerTask::WriteBatch => self.write_disposed(acknowledger).await,
            AcknowledgerTask::ReadDue => self.read_due_after_writing(acknowledger).await,
            AcknowledgerTask::RenewClaims => self.renew_some_claims(&mut acknowledger.claims_to_renew).await,
            AcknowledgerTask::Heartbeat => self.heartbeat(acknowledger).await,
            AcknowledgerTask::ClaimIdle => self.claim_idle(acknowledger).await,
            AcknowledgerTask::CollectGarbage => self.collect_garbage(&mut acknowledger.garbage_cursor).await,
            AcknowledgerTask::HeartbeatAndClaim => self.heartbeat_and_claim(acknowledger).await,
        };
        match done {
            // recreates it here too: the reader may be waiting for room, and only a write makes room
            Err(error) if command::is_group_missing(&error) => self.recreate_group().await,
            done => done,
        }
    }

    async fn heartbeat_and_claim(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        self.heartbeat(acknowledger).await?;
        self.claim_idle(acknowledger).await
    }

    pub(super) async fn recreate_group(&self) -> Result<(), CommandError> {
        let is_new: bool = self.bus.connection().run_idempotent(&self.create_group_script()).await?;
        self.has_passed_backlog.store(false, Ordering::Release);
        self.log_group_created(is_new);
        Ok(())
    }

    async fn write_disposed(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        acknowledger.batch.add(self.in_flight.take_disposed());
        if acknowledger.batch.is_empty() && self.discarded().is_empty() {
            return Ok(());
        }
        self.write_most(&mut acknowledger.batch).await.map(drop)
    }

    /// Reads due entries again, after writing their last attempts: the server returns these with the entries.
    async fn read_due_after_writing(&self, acknowledger: &mut Acknowledger) -> Result<(), CommandError> {
        acknowledger.batch.gather_no_more();
        self.write_disposed(acknowledger).await?;
        self.read_due(self.in_flight.take_due()).await
    }

    /// Renews the claim on one batch of `claims_to_renew` and removes it from the list.
    async fn renew_some_claims(&self, claims_to_renew: &mut Vec<MessageId>) -> Result<(), CommandError> {
        let rest = claims_to_renew.len().saturating_sub(command::SCRIPT_BATCH_MAX);
        let mut ids = claims_to_renew[rest..].to_vec();
        // an entry acknowledged since is no longer pending
        ids.retain(|id| self.in_flight.contains(id) || self.kept_pending().contains(id));
        let (lost, free) = self.renew_claims(&ids).await?;
        claims_to_renew.truncate(rest);
        for id in lost.iter().chain(&free) {
            self.kept_pending().remove(id);
        }
        // an entry acknowledged meanwhile is not lost
        let lost: Vec<_> = lost.into_iter().filter(|id| self.in_flight.contains(id)).collect();
        self.release_lost(&lost);
        Ok(())
    }

    /// Renews the claim on entries. Returns those that other consumers have by now, and those that no consumer has.
    pub(super) async fn renew_claims(
        &self,
        ids: &[MessageId],
    ) -> Result<(Vec<MessageId>, Vec<MessageId>), CommandError> {
        let (mut all_lost, mut all_free) = (Vec::new(), Vec::new());
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX) {
            let mut renewal = script::consumer::RENEW_CLAIMS.key(self.bus.stream());
            renewal.arg(self.group.as_str()).arg(&self.name);
            add_ids(&mut renewal, ids);
            let (lost, free): (Vec<String>, Vec<String>) = self.bus.connection().run_idempotent(&renewal).await?;
            all_lost.extend(lost.into_iter().map(MessageId::new));
            all_free.extend(free.into_iter().map(MessageId::new));
        }
        Ok((all_lost, all_free))
    }

    /// Writes what remains and leaves idle entries to other consumers; all within [`SHUTDOWN_GRACE_PERIOD`].
    async fn shut_down(&self, acknowledger: &mut Acknowledger) {
        let nacked = self.in_flight.nack_idle();
        let ending = async {
            loop {
                acknowledger.batch.add(self.in_flight.take_disposed());
                match self.write_and_deregister(&mut acknowledger.batch, &nacked).await {
                    Err(error) if !command::is_group_missing(&error) => {
                        tokio::time::sleep(acknowledger.failed_tasks.outage_log().record_failure(&error)).await;
                    }
                    _ => return,
                }
            }
        };
        if tokio::time::timeout(SHUTDOWN_GRACE_PERIOD, ending).await.is_err() {
            let count = self.in_flight.len() + nacked.len();
            tracing::warn!(group = %self.group, count, "the consumer ended before the server answered: its in-flight entries will be redelivered");
        }
    }

    async fn write_and_deregister(&self, batch: &mut AckBatch, nacked: &[MessageId]) -> Result<(), CommandError> {
        self.write_batch(batch).await?;
        self.deregister(nacked, self.bus.has_temporary_name()).await
    }

    /// Leaves entries to other consumers, and removes the consumer's name if `removes_name`: it will not come back.
    pub(super) async fn deregister(&self, ids: &[MessageId], removes_name: bool) -> Result<(), CommandError> {
        let mut chunks = ids.chunks(command::SCRIPT_BATCH_MAX).collect::<Vec<_>>();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for ids in chunks {
            let mut deregister = script::consumer::DEREGISTER_CONSUMER.key(self.bus.stream());
            deregister.key(&self.keys.members);
            deregister.arg(self.group.as_str()).arg(&self.name).arg(self.bus.config().pending_idle_ms);
            deregister.arg(u8::from(removes_name));
            add_ids(&mut deregister, ids);
            self.bus.connection().run_idempotent::<u64>(&deregister).await?;
        }
        Ok(())
    }
}
