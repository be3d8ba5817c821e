//! Waiting for something new.
//!
//! Real time, not the given clock: what other workers write into files.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    coordination::{CoordinationStatus, Coordinator},
    queue::QueueInner,
};

/// Waits for news, or until it is time to look all the same.
///
/// Where others tell what they do, looking is for what they could not tell; without that it is done soon at first, then
/// less and less often.
#[derive(Debug)]
pub(crate) struct PollBackoff {
    coordination: Arc<dyn Coordinator>,
    change_signal: watch::Receiver<()>,
    delay: Duration,
    delay_max: Duration,
}

/// How soon it is looked again at first.
const POLL_DELAY_FIRST: Duration = Duration::from_millis(5);

impl PollBackoff {
    pub(crate) fn new(queue: &QueueInner) -> Self {
        let longest = queue.config.poll_interval;
        let (coordination, change_signal) = (Arc::clone(&queue.coordination), queue.change_signal.subscribe());
        Self { coordination, change_signal, delay: POLL_DELAY_FIRST.min(longest), delay_max: longest }
    }

    /// There was something: it may go on so.
    pub(crate) fn reset(&mut self) {
        self.delay = POLL_DELAY_FIRST.min(self.delay_max);
    }

    pub(crate) async fn wait(&mut self) {
        let next = match self.coordination.status() {
            CoordinationStatus::Connected => self.delay_max,
            _ => self.delay,
        };
        tokio::select! {
            // the sender lives as long as we do
            _ = self.change_signal.changed() => self.reset(),
            () = tokio::time::sleep(next) => self.delay = (self.delay * 2).min(self.delay_max),
        }
    }
}
