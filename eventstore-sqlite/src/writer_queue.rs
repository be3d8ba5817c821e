//! What waits for the connection that writes.

use std::{collections::VecDeque, sync::Arc};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{batch::Batch, handoff::Handoff, job::Job};

/// How many jobs share a transaction at most: the first of them waits for the last.
pub(crate) const BATCH_JOBS_MAX: usize = 512;

/// Something else than writing, between two transactions.
pub(crate) type ConnectionTask = Box<dyn FnOnce(&Connection) + Send>;

/// What waits for the connection that writes.
#[derive(Default)]
pub(crate) struct WriterQueue {
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) tasks: Vec<ConnectionTask>,
    /// Those who want the connection for themselves for a while.
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

    pub(crate) fn requeue(&mut self, batch: Batch) {
        for job in batch.into_jobs().rev() {
            self.jobs.push_front(job);
        }
    }
}
