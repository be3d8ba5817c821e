//! The queue of work for the write connection.

use std::{collections::VecDeque, sync::Arc};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{handoff::Handoff, job::Job};

/// Maximum number of jobs that share a transaction: the first of them waits for the last.
pub(crate) const BATCH_JOBS_MAX: usize = 512;

/// Work other than a write, between two transactions.
pub(crate) type ConnectionTask = Box<dyn FnOnce(&Connection) + Send>;

/// Work that waits for the write connection.
#[derive(Default)]
pub(crate) struct WriterQueue {
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) tasks: Vec<ConnectionTask>,
    /// Callers that want the connection for a transaction of their own.
    pub(crate) waiters: VecDeque<oneshot::Sender<Arc<Handoff>>>,
}

impl WriterQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.tasks.is_empty() && self.waiters.is_empty()
    }

    pub(crate) fn take_batch(&mut self) -> (Vec<ConnectionTask>, Vec<Job>) {
        let jobs = self.jobs.len().min(BATCH_JOBS_MAX);
        (std::mem::take(&mut self.tasks), self.jobs.drain(..jobs).collect())
    }

    /// Puts jobs back to the front, in their order.
    pub(crate) fn requeue(&mut self, jobs: impl DoubleEndedIterator<Item = Job>) {
        for job in jobs.rev() {
            self.jobs.push_front(job);
        }
    }
}
