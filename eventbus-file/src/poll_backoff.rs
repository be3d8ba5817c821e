//! Waiting for new files.
//!
//! Real time, not the given clock: other workers write the files.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    coordination::{CoordinationStatus, Coordinator},
    inner::QueueInner,
};

/// Waits for a change, or until the next poll of the folder is due.
///
/// Connected workers announce their changes, and a poll only finds those whose message was lost: it is due after the
/// longest delay. Without a connection, the delay begins short and doubles.
#[derive(Debug)]
pub(crate) struct PollBackoff {
    coordination: Arc<dyn Coordinator>,
    change_signal: watch::Receiver<()>,
    delay: Duration,
    delay_max: Duration,
}

/// First delay between two polls.
const POLL_DELAY_FIRST: Duration = Duration::from_millis(5);

impl PollBackoff {
    pub(crate) fn new(queue: &QueueInner) -> Self {
        let longest = queue.config().poll_interval;
        let (coordination, change_signal) = (Arc::clone(queue.coordination()), queue.change_signal().subscribe());
        Self { coordination, change_signal, delay: POLL_DELAY_FIRST.min(longest), delay_max: longest }
    }

    /// Makes the next delay short again, after a poll that found a change.
    pub(crate) fn reset(&mut self) {
        self.delay = POLL_DELAY_FIRST.min(self.delay_max);
    }

    pub(crate) async fn wait(&mut self) {
        let next = match self.coordination.status() {
            CoordinationStatus::Connected => self.delay_max,
            _ => self.delay,
        };
        tokio::select! {
            // the coordinator or a task of this worker announces a change; the sender lives as long as the queue
            _ = self.change_signal.changed() => self.reset(),
            () = tokio::time::sleep(next) => self.delay = (self.delay * 2).min(self.delay_max),
        }
    }
}
