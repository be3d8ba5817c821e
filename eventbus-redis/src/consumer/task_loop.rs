//! The tasks of a consumer whose last run failed, and the time of their next run.
//!
//! Real time, not the given clock: the replies of Redis.

use eventbus::Name;
use tokio::time::Instant;

use super::outage_log::OutageLog;
use crate::error::CommandError;

/// Tasks whose last run failed, oldest failure first; they are retried one after the other, so that one that keeps
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
    pub(super) fn first(&self) -> Option<T> {
        self.tasks.first().copied()
    }

    /// Returns when to retry it.
    pub(super) const fn retry_at(&self) -> Instant {
        self.retry_at
    }

    pub(super) const fn outage_log(&mut self) -> &mut OutageLog {
        &mut self.outage_log
    }

    /// Records a task's result; the outage ends when every failed task has succeeded again.
    pub(super) fn record_result(&mut self, task: T, result: Result<(), CommandError>) {
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
