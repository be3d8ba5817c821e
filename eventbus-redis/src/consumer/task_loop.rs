//! The task loop of a consumer: runs the tasks that write dispositions and keep entries, one at a time,
//! and retries failed ones.
//!
//! Real time, not the given clock: claims and leases, by the clock of Redis, and its replies.

use std::time::Duration;

use eventbus::{
    Name,
    delivery::{Consuming, InFlight},
    port::MessageId,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::outage_log::OutageLog;
use crate::{connection::IDEMPOTENT_REPLY_TIMEOUT, error::CommandError};

/// Interval between two attempts to write a batch that failed.
const ACK_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time for the running task, and then for the final write, when the consumer ends: enough for a command whose first
/// connection is dead.
const STOP_GRACE_PERIOD: Duration = IDEMPOTENT_REPLY_TIMEOUT.saturating_mul(2);
/// Longest interval between two searches for entries of dead consumers.
pub(super) const CLAIM_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// The tasks of a consumer.
pub(super) trait ConsumerTasks {
    type Task: Copy + PartialEq;
    /// Writes dispositions.
    const WRITE: Self::Task;
    /// Reads due entries again, after writing their last attempts: the server returns these with the entries.
    const READ_DUE: Self::Task;

    /// Returns `true` if there are dispositions to write.
    fn has_unwritten(&self) -> bool;

    /// Returns the time at which the task writes the failures that gather; `None` if none gather.
    fn gathers_until(&self) -> Option<Instant>;

    /// Waits for the next task that is not about dispositions. The loop may drop the wait.
    async fn next_task(&mut self, failed: &FailedTasks<Self::Task>) -> Self::Task;

    async fn run_task(&mut self, task: Self::Task) -> Result<(), CommandError>;

    /// Writes what remains, leaves `nacked` to other consumers, and deregisters the consumer.
    async fn shut_down(&mut self, nacked: &[MessageId]) -> Result<(), CommandError>;

    /// Logs that the server did not answer in time.
    fn log_unfinished(&self, nacked: usize);
}

/// Runs tasks until workers and reader have ended, then shuts down: within [`STOP_GRACE_PERIOD`], or until the deadline
/// of a shutdown aborts it, if there is something to write.
///
/// Invariant: the loop ends last, because it writes the last dispositions of the workers.
pub(super) async fn run_tasks<T: ConsumerTasks>(
    tasks: &mut T,
    mut failed: FailedTasks<T::Task>,
    in_flight: &InFlight,
    consuming: &Consuming,
    ended: &CancellationToken,
) {
    let mut write = delayed_interval(ACK_RETRY_INTERVAL);
    loop {
        // the loop repeats a failed task at `retry_at`, and its usual triggers pause
        let (retry, retry_at) = (failed.first(), failed.retry_at);
        let writes = !failed.contains(T::WRITE);
        let (has_unwritten, gathers_until) = (tasks.has_unwritten(), tasks.gathers_until());
        // unbiased: under load dispositions are always ready, and must not starve heartbeat or rebalance, which renew
        // claims and leases
        let task = tokio::select! {
            () = ended.cancelled() => break,
            () = sleep_until(retry_at), if retry.is_some() => retry.unwrap_or(T::WRITE),
            () = in_flight.disposed(), if writes => T::WRITE,
            _ = write.tick(), if writes && has_unwritten => T::WRITE,
            () = sleep_until(gathers_until.unwrap_or(retry_at)), if writes && gathers_until.is_some() => T::WRITE,
            () = in_flight.due(), if writes && !failed.contains(T::READ_DUE) => T::READ_DUE,
            task = tasks.next_task(&failed) => task,
        };
        let in_vain = async {
            ended.cancelled().await;
            sleep(STOP_GRACE_PERIOD).await;
        };
        // a task that hangs must not outlast the grace period
        let result = tokio::select! {
            done = tasks.run_task(task) => done,
            () = in_vain => break, // `shut_down` repeats an interrupted write
        };
        failed.record_result(task, result);
    }
    let nacked = in_flight.nack_unfinished();
    let is_finished = nacked.is_empty() && in_flight.is_empty() && !tasks.has_unwritten();
    let in_vain = async {
        sleep(STOP_GRACE_PERIOD).await;
        if !is_finished && consuming.has_deadline() {
            std::future::pending::<()>().await; // the deadline ends it
        }
    };
    let ending = async {
        while let Err(error) = tasks.shut_down(&nacked).await {
            sleep(failed.outage_log.record_failure(&error)).await;
        }
    };
    // the server may never answer
    tokio::select! {
        () = ending => {}
        () = in_vain => tasks.log_unfinished(nacked.len()),
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
