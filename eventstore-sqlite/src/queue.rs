//! What waits for the connection that writes.

use std::{collections::VecDeque, sync::Arc};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{batch::Batch, job::Job, offer::Offer};

/// How many jobs share a transaction at most: the first of them waits for the last.
pub(crate) const BATCH: usize = 512;

/// Something else than writing, between two transactions.
pub(crate) type Visit = Box<dyn FnOnce(&Connection) + Send>;

/// What waits for the connection that writes.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) visits: Vec<Visit>,
    /// Those who want the connection for themselves for a while.
    pub(crate) claims: VecDeque<oneshot::Sender<Arc<Offer>>>,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.visits.is_empty() && self.claims.is_empty()
    }

    pub(crate) fn take(&mut self) -> (Vec<Visit>, Vec<Job>) {
        let jobs = self.jobs.len().min(BATCH);
        (std::mem::take(&mut self.visits), self.jobs.drain(..jobs).collect())
    }

    pub(crate) fn put_back(&mut self, batch: Batch) {
        for job in batch.into_jobs().rev() {
            self.jobs.push_front(job);
        }
    }
}
