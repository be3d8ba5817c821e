//! Waiting for something new.
//!
//! Real time, not the given clock: what other workers write into files.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    coordination::{Coordinate, CoordinationStatus},
    queue::Shared,
};

/// Waits for news, or until it is time to look all the same.
///
/// Where others tell what they do, looking is for what they could not tell; without that it is done soon at first, then
/// less and less often.
#[derive(Debug)]
pub(crate) struct Patience {
    coordination: Arc<dyn Coordinate>,
    news: watch::Receiver<()>,
    next: Duration,
    longest: Duration,
}

/// How soon it is looked again at first.
const SOON: Duration = Duration::from_millis(5);

impl Patience {
    pub(crate) fn new(shared: &Shared) -> Self {
        let longest = shared.config.poll_interval;
        let (coordination, news) = (Arc::clone(&shared.coordination), shared.news.subscribe());
        Self { coordination, news, next: SOON.min(longest), longest }
    }

    /// There was something: it may go on so.
    pub(crate) fn reset(&mut self) {
        self.next = SOON.min(self.longest);
    }

    pub(crate) async fn wait(&mut self) {
        let next = match self.coordination.status() {
            CoordinationStatus::Connected => self.longest,
            _ => self.next,
        };
        tokio::select! {
            // the sender lives as long as we do
            _ = self.news.changed() => self.reset(),
            () = tokio::time::sleep(next) => self.next = (self.next * 2).min(self.longest),
        }
    }
}
