//! The tasks of a consumer: they write dispositions, send heartbeats, renew claims, reclaim entries of dead consumers, and
//! trim the stream, one task at a time; a failed task is repeated.
//!
//! Invariant: the consumer reads no entry a second time that may still be on its way to it, and reclaims no entries of
//! dead consumers before its own pending entries are in flight.
//!
//! Real time, not the given clock: claims, by the clock of Redis, and its replies.

use std::{future::ready, time::Duration};

use eventbus::{Name, port::MessageId};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    acknowledger::{AckBatch, AckBatchOutcome},
    inner::{MAINTENANCE_INTERVAL_MIN, RANGE_START},
    membership::MemberLog,
    outage_log::OutageLog,
    parts::ConsumerParts,
    reader::CaughtUp,
};
use crate::{
    Trim, TrimBlocker, command,
    connection::IDEMPOTENT_REPLY_TIMEOUT,
    error::CommandError,
    trim::{TrimReply, TrimStep, trim_script},
};

/// Pages without an entry of a dead consumer that one run searches at most.
const EMPTY_CLAIM_PAGES_MAX: usize = 10;
/// Longest interval between two searches for entries of dead consumers.
const CLAIM_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Interval between two searches for entries to remove.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two steps of trimming, for other clients of the server.
const TRIM_STEP_PAUSE: Duration = Duration::from_millis(1);
/// Interval between two attempts to write a batch that failed.
const ACK_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time for the running task, and then for the final write, when the consumer ends: enough for a command whose first
/// connection is dead.
const STOP_GRACE_PERIOD: Duration = IDEMPOTENT_REPLY_TIMEOUT.saturating_mul(2);

/// A task of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    WriteBatch,
    RenewClaims,
    Heartbeat,
    ClaimIdle,
    CollectGarbage,
    Trim,
}

/// The state of the tasks.
pub(super) struct ConsumerTasks<'a> {
    parts: &'a ConsumerParts,
    caught_up: &'a CaughtUp,
    batch: AckBatch,
    failed: FailedTasks<Task>,
    /// Entries whose claim is still to be renewed, some at a time, so that no acknowledgement waits for all of them.
    claims_to_renew: Vec<MessageId>,
    /// Cursor of the search for entries of dead consumers.
    claim_cursor: String,
    /// Cursor of the search for unused attempt records.
    garbage_cursor: String,
    /// Set if the last heartbeat found more entries pending on this consumer than are in flight.
    has_missing: bool,
    log: MemberLog,
    write: Interval,
    renewal: Interval,
    heartbeat: Interval,
    claim: Interval,
    garbage_collection: Interval,
    trim: Interval,
    /// The limits of the stream.
    limits: Trim,
    /// The group that was logged last as blocking the trimming.
    trim_blocker: Option<String>,
}

impl<'a> ConsumerTasks<'a> {
    pub(super) fn new(parts: &'a ConsumerParts, caught_up: &'a CaughtUp) -> Self {
        let (idle, config) = (parts.inner.pending_idle(), parts.inner.bus().config());
        let max_age = config.trim_max_age_seconds.map(Duration::from_secs);
        Self {
            parts,
            caught_up,
            batch: AckBatch::default(),
            failed: FailedTasks::new("acknowledging", parts.inner.group().clone()),
            claims_to_renew: Vec::new(),
            claim_cursor: RANGE_START.into(),
            garbage_cursor: "0".into(),
            has_missing: false,
            log: MemberLog::default(),
            write: delayed_interval(ACK_RETRY_INTERVAL),
            renewal: delayed_interval(idle / 3),
            heartbeat: delayed_interval(parts.membership.heartbeat_interval()),
            claim: delayed_interval((idle / 6).clamp(MAINTENANCE_INTERVAL_MIN, CLAIM_INTERVAL_MAX)),
            garbage_collection: delayed_interval(idle.max(CLAIM_INTERVAL_MAX)),
            trim: delayed_interval(TRIM_INTERVAL),
            limits: Trim { max_length: config.trim_max_length, max_age },
            trim_blocker: None,
        }
    }

    /// Runs tasks until workers and reader have `ended`, then shuts down: within [`STOP_GRACE_PERIOD`], or until the
    /// deadline of a shutdown aborts it, if there is something to write.
    ///
    /// Invariant: the loop ends last, because it writes the last dispositions of the workers.
    pub(super) async fn run(&mut self, ended: &CancellationToken) {
        loop {
            let task = tokio::select! {
                () = ended.cancelled() => break,
                task = self.next_task() => task,
            };
            let in_vain = async {
                ended.cancelled().await;
                sleep(STOP_GRACE_PERIOD).await;
            };
            // a task that hangs must not outlast the grace period
            let result = tokio::select! {
                done = self.run_task(task) => done,
                () = in_vain => break, // `shut_down` repeats an interrupted write
            };
            self.failed.record_result(task, result);
        }
        let (inner, consuming) = (&self.parts.inner, self.parts.inner.bus().consuming());
        let nacked = inner.in_flight().nack_unfinished();
        let is_finished = nacked.is_empty() && inner.in_flight().is_empty() && !self.has_unwritten();
        let in_vain = async {
            sleep(STOP_GRACE_PERIOD).await;
            if !is_finished && consuming.has_deadline() {
                std::future::pending::<()>().await; // the deadline ends it
            }
        };
        let ending = async {
            while let Err(error) = self.shut_down(&nacked).await {
                sleep(self.failed.outage_log.record_failure(&error)).await;
            }
        };
        // the server may never answer
        tokio::select! {
            () = ending => {}
            () = in_vain => {
                let count = inner.in_flight().len() + nacked.len();
                tracing::warn!(group = %inner.group(), count, "the consumer ended before the server answered: its in-flight entries will be redelivered");
            }
        }
    }

    /// Waits for the next task. The loop repeats a failed task at its time, and its usual triggers pause.
    async fn next_task(&mut self) -> Task {
        let Self { parts, failed, .. } = self;
        let (inner, retry_at) = (&parts.inner, failed.retry_at);
        let writes = !failed.contains(Task::WriteBatch);
        let has_unwritten = !self.batch.is_empty() || inner.entries().has_discarded();
        let renews = !self.claims_to_renew.is_empty();
        // unbiased: under load dispositions are always ready, and must not starve the heartbeat, or the renewal of claims;
        // one task after the other: they share the batch and the lists of entries
        tokio::select! {
            () = sleep_until(retry_at), if failed.first().is_some() => failed.first().unwrap_or(Task::WriteBatch),
            () = inner.in_flight().disposed(), if writes => Task::WriteBatch,
            _ = self.write.tick(), if writes && has_unwritten => Task::WriteBatch,
            () = self.caught_up.wait() => {
                self.claim.reset_immediately();
                Task::Heartbeat
            }
            _ = self.renewal.tick(), if !renews => {
                self.claims_to_renew = inner.entries().ids();
                Task::RenewClaims
            }
            () = ready(()), if renews && !failed.contains(Task::RenewClaims) => Task::RenewClaims,
            _ = self.heartbeat.tick() => Task::Heartbeat,
            _ = self.claim.tick() => Task::ClaimIdle,
            _ = self.garbage_collection.tick() => Task::CollectGarbage,
            _ = self.trim.tick(), if self.limits != Trim::default() => Task::Trim,
        }
    }

    async fn run_task(&mut self, task: Task) -> Result<(), CommandError> {
        let done = match task {
            Task::WriteBatch => self.write_disposed().await,
            Task::RenewClaims => self.renew_some_claims().await,
            Task::Heartbeat => self.heartbeat().await,
            Task::ClaimIdle => self.claim_idle().await,
            Task::CollectGarbage => self.parts.membership.collect_garbage(&mut self.garbage_cursor).await,
            Task::Trim => self.trim().await,
        };
        match done {
            // recreates it here too: the reader may be waiting for room, and only a write makes room
            Err(error) if command::is_group_missing(&error) => self.parts.inner.create_group().await,
            done => done,
        }
    }

    /// Writes what remains, leaves `nacked` to other consumers, and deregisters the consumer.
    async fn shut_down(&mut self, nacked: &[MessageId]) -> Result<(), CommandError> {
        let ConsumerParts { inner, acknowledger, membership, .. } = self.parts;
        acknowledger.add(&mut self.batch, inner.in_flight().take_disposed());
        let ended = match acknowledger.write(&mut self.batch, &mut AckBatchOutcome::default()).await {
            Ok(()) => membership.deregister(nacked, inner.bus().has_temporary_name()).await,
            Err(error) => Err(error),
        };
        // without a group no entry is pending
        ended.or_else(|error| if command::is_group_missing(&error) { Ok(()) } else { Err(error) })
    }

    fn has_unwritten(&self) -> bool {
        !self.batch.is_empty() || self.parts.inner.entries().has_discarded()
    }

    async fn write_disposed(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, acknowledger, .. } = self.parts;
        acknowledger.add(&mut self.batch, inner.in_flight().take_disposed());
        if !self.has_unwritten() {
            return Ok(());
        }
        acknowledger.write(&mut self.batch, &mut AckBatchOutcome::default()).await
    }

    /// Renews the claim on one batch of `claims_to_renew` and removes it from the list. A claim on an entry that no handler
    /// here can read is not renewed, so that other consumers get it.
    ///
    /// Invariant: each call sends one script, so that it never waits behind all acknowledgements.
    async fn renew_some_claims(&mut self) -> Result<(), CommandError> {
        let inner = &self.parts.inner;
        let rest = self.claims_to_renew.len().saturating_sub(command::SCRIPT_BATCH_MAX);
        let mut ids = self.claims_to_renew[rest..].to_vec();
        // an entry acknowledged since is no longer pending
        ids.retain(|id| inner.entries().contains(id));
        let (unreadable, renewed): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| inner.entries().is_unreadable(id));
        let (lost, free) = self.parts.membership.renew_claims(&unreadable, &renewed).await?;
        self.claims_to_renew.truncate(rest);
        inner.entries().unkeep(lost.iter().chain(&free));
        // an entry acknowledged meanwhile is not lost
        let lost: Vec<_> = lost.into_iter().filter(|id| inner.in_flight().contains(id)).collect();
        inner.release_lost(&lost);
        Ok(())
    }

    /// Sends a heartbeat; finds entries that are pending on the consumer and not in flight.
    ///
    /// Invariant: the expected number is read after the heartbeat, so that an entry received meanwhile is not missing.
    async fn heartbeat(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, membership, .. } = self.parts;
        let Some((pending, is_duplicate)) = membership.heartbeat().await? else {
            return Ok(());
        };
        self.log.log_duplicate_name(inner, is_duplicate, inner.pending_idle());
        // an entry may be on its way to the reader, so only two heartbeats in a row count
        let has_missing = self.caught_up.is_done() && pending > inner.entries().len();
        if std::mem::replace(&mut self.has_missing, has_missing) && has_missing {
            self.caught_up.doubt();
        }
        Ok(())
    }

    /// Reclaims entries of dead consumers as far as there is room. Stops after [`EMPTY_CLAIM_PAGES_MAX`] pages without
    /// one; the next run continues there.
    async fn claim_idle(&mut self) -> Result<(), CommandError> {
        let ConsumerParts { inner, receiver, .. } = self.parts;
        let config = inner.bus().config();
        let mut pages_in_vain = 0;
        while pages_in_vain < EMPTY_CLAIM_PAGES_MAX && self.caught_up.is_done() {
            let count = inner.in_flight().free().min(config.batch_size).min(command::SCRIPT_BATCH_MAX);
            if count == 0 {
                return Ok(());
            }
            let (cursor, reclaimed) =
                receiver.claim_page(&self.claim_cursor, config.pending_idle_ms, true, count).await?;
            self.claim_cursor = cursor;
            pages_in_vain += usize::from(reclaimed.entries.is_empty());
            receiver.log_recovered(receiver.receive_reclaimed(reclaimed));
            if self.claim_cursor == RANGE_START {
                break;
            }
        }
        Ok(())
    }

    /// Removes some of the oldest entries that are beyond the limits and that every group has finished. Only the consumer
    /// of the bus's first group does so; several processes may do so at once.
    async fn trim(&mut self) -> Result<(), CommandError> {
        let inner = &self.parts.inner;
        let (bus, group) = (inner.bus(), inner.group());
        if bus.subscribers().groups().first() != Some(group) {
            return Ok(());
        }
        let step: TrimReply = inner.run_idempotent(&trim_script(bus.stream(), self.limits, false)).await?;
        let step = TrimStep::from(step);
        if step.has_more {
            self.trim.reset_after(TRIM_STEP_PAUSE);
        }
        if let Some(TrimBlocker { group, reason, oldest, age }) = step.held_by
            && self.trim_blocker.as_ref() != Some(&group)
        {
            tracing::info!(stream = bus.stream(), group, ?reason, %oldest, ?age, "a group that is behind blocks trimming");
            self.trim_blocker = Some(group);
        }
        Ok(())
    }
}

/// Returns an interval that first ticks after one period; a late tick delays those after it.
pub(super) fn delayed_interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Tasks whose last run failed, oldest failure first; the loop retries them one after the other, so that one that keeps
/// failing does not starve the rest.
pub(super) struct FailedTasks<T> {
    tasks: Vec<T>,
    retry_at: Instant,
    outage_log: OutageLog,
}

impl<T: Copy + PartialEq> FailedTasks<T> {
    pub(super) fn new(operation: &'static str, group: Name) -> Self {
        Self { tasks: Vec::new(), retry_at: Instant::now(), outage_log: OutageLog::new(operation, group) }
    }

    pub(super) fn contains(&self, task: T) -> bool {
        self.tasks.contains(&task)
    }

    /// Returns the task to retry first.
    fn first(&self) -> Option<T> {
        self.tasks.first().copied()
    }

    /// Records a task's result; the outage ends when every failed task has succeeded again.
    fn record_result(&mut self, task: T, result: Result<(), CommandError>) {
        self.tasks.retain(|failing| *failing != task);
        if let Err(error) = result {
            self.tasks.push(task);
            self.retry_at = Instant::now() + self.outage_log.record_failure(&error);
        } else if self.tasks.is_empty() {
            self.outage_log.record_success();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tasks_are_retried_in_the_order_in_which_they_failed() {
        let mut failed = FailedTasks::new("trying", Name::new("group", "billing").unwrap());
        let fails = || Err(CommandError::NotSent("the server is away".into()));
        (1..=4).for_each(|task| failed.record_result(task, fails()));
        for task in [1, 2, 3, 4, 1, 2, 3, 4] {
            assert_eq!(failed.first(), Some(task), "the one that failed again is the last");
            failed.record_result(task, fails());
        }
        failed.record_result(2, Ok(()));
        assert!(!failed.contains(2) && failed.contains(3));
        for task in [1, 3, 4] {
            assert_eq!(failed.first(), Some(task));
            failed.record_result(task, Ok(()));
        }
        assert_eq!(failed.first(), None);
    }
}
