//! The head of a store's feed, as all readers of an app share it: one task polls the store for them.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::head_poll::HeadPoll;
use crate::{
    domain::{clock::SharedClock, stream::Position},
    port::{
        EventStore,
        backoff::{Backoff, BackoffTimer},
    },
};

/// The pauses after failed reads.
pub(super) const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// What the task of a [`FeedHead`] has polled.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PolledHead {
    /// The head at the last poll; `None` before the first poll, and if the last one failed: readers then ask the store,
    /// and so meet its error.
    pub(super) head: Option<Position>,
    /// The number of failed polls: a reader that reaches the store again learns that it was away.
    pub(super) failures: u64,
}

/// The shared head of a feed. Cloning shares it.
#[derive(Clone)]
pub(crate) struct FeedHead(Arc<FeedHeadInner>);

struct FeedHeadInner {
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    polled: watch::Sender<PolledHead>,
    /// Wakes a task that does not poll, since there was no reader.
    wanted: Notify,
    /// `true` while a task polls.
    is_shared: watch::Sender<bool>,
}

impl FeedHead {
    /// Creates a head that no task polls: each reader polls by itself.
    pub(crate) fn new(store: Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let (polled, wanted, is_shared) = Default::default();
        Self(Arc::new(FeedHeadInner { store, clock, polled, wanted, is_shared }))
    }

    /// Returns the task that polls for all readers from now on. Once it is dropped, each reader polls by itself.
    pub(crate) fn share(&self) -> FeedHeadTask {
        self.0.is_shared.send_replace(true);
        FeedHeadTask { head: self.clone() }
    }

    pub(crate) fn store(&self) -> &Arc<dyn EventStore> {
        &self.0.store
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Returns a watch of the polled heads; `None` if no task polls.
    pub(super) fn subscribe(&self) -> Option<watch::Receiver<PolledHead>> {
        self.0.is_shared.borrow().then(|| self.0.polled.subscribe())
    }

    /// Waits until the task has ended.
    pub(super) async fn ended(&self) {
        let mut is_shared = self.0.is_shared.subscribe();
        // the head keeps the sender
        let _ = is_shared.wait_for(|is_shared| !is_shared).await;
    }

    /// Lets the task poll if it does not: there is a reader.
    pub(super) fn begin_polls(&self) {
        self.0.wanted.notify_one();
    }
}

/// The task of a [`FeedHead`].
///
/// | State | Event | Next state |
/// |---|---|---|
/// | idle | a reader that subscribed has asked the store, see [`FeedHead::begin_polls`] | polling |
/// | polling | an answer | waiting; readers wake if the head has changed |
/// | polling | an error | failed; readers wake, and ask the store themselves |
/// | waiting | a signal of an append, or the pause of [`HeadPoll`] is over | polling; idle if no reader is left |
/// | failed | a signal of an append, or a backoff is over | polling; idle if no reader is left |
/// | any | cancelled, or dropped | ended: each reader polls by itself |
pub(crate) struct FeedHeadTask {
    head: FeedHead,
}

impl FeedHeadTask {
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.poll()).await;
    }

    async fn poll(&self) {
        let FeedHeadInner { store, clock, polled, wanted, .. } = &*self.head.0;
        let mut poll = HeadPoll::new(Arc::clone(store), clock.clone());
        let mut failures = BackoffTimer::new(FAILURE_BACKOFF);
        loop {
            if polled.receiver_count() == 0 {
                polled.send_modify(|last| last.head = None);
                wanted.notified().await;
                poll.reset();
                continue;
            }
            if let Ok(head) = poll.poll().await {
                polled.send_if_modified(|last| last.head.replace(head) != Some(head));
                failures.reset();
                poll.wait().await;
            } else {
                // wakes each time: a reader may have reached the store since the last failure
                polled.send_modify(|last| *last = PolledHead { head: None, failures: last.failures + 1 });
                poll.wait_for(failures.next_jittered()).await;
            }
        }
    }
}

impl Drop for FeedHeadTask {
    fn drop(&mut self) {
        self.head.0.is_shared.send_replace(false);
    }
}
