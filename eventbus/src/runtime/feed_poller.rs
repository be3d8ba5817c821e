//! The poller of a store's feed, used by relay, followers and projections: decides when a reader reads again.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::clock::SharedClock,
    port::{
        AppendWatch, EventStore,
        backoff::{Backoff, BackoffTimer},
    },
};

/// The pauses between polls for events of other processes.
const POLL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(250));
/// The pauses after failed reads.
const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Poll backoff of a feed reader: an append in its process wakes it, else it polls ever more slowly.
pub(crate) struct FeedPoller {
    appended: AppendWatch,
    polls: BackoffTimer,
    failures: BackoffTimer,
    clock: SharedClock,
}

impl FeedPoller {
    pub(crate) fn new(store: &Arc<dyn EventStore>, clock: SharedClock) -> Self {
        let (polls, failures) = (BackoffTimer::new(POLL_BACKOFF), BackoffTimer::new(FAILURE_BACKOFF));
        Self { appended: store.appended().watch(), polls, failures, clock }
    }

    /// Resets interval and backoff, after the reader read events.
    pub(crate) fn reset(&mut self) {
        self.polls.reset();
        self.failures.reset();
    }

    /// Waits at the end of the feed for an append or the next poll. Returns `false` if it was cancelled.
    pub(crate) async fn wait_idle(&mut self, cancel: &CancellationToken) -> bool {
        self.failures.reset();
        let interval = self.polls.next_delay();
        // neither an append nor a shutdown waits for the poll
        tokio::select! {
            () = cancel.cancelled() => false,
            () = self.appended.appended() => { self.polls.reset(); true }
            () = self.clock.sleep(interval) => true,
        }
    }

    /// Waits after a failed read, longer each time. Returns `false` if it was cancelled.
    pub(crate) async fn wait_after_failure(&mut self, cancel: &CancellationToken) -> bool {
        // a shutdown does not wait for the backoff
        tokio::select! {
            () = cancel.cancelled() => false,
            () = self.clock.sleep(self.failures.next_jittered()) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::memory::InMemoryEventStore;

    fn poller() -> (Arc<dyn EventStore>, FeedPoller, CancellationToken) {
        let store: Arc<dyn EventStore> = Arc::new(InMemoryEventStore::new());
        let feed = FeedPoller::new(&store, SharedClock::SYSTEM);
        (store, feed, CancellationToken::new())
    }

    /// Returns how long the poller waits, in milliseconds.
    async fn idle(feed: &mut FeedPoller) -> u128 {
        let began = Instant::now();
        assert!(feed.wait_idle(&CancellationToken::new()).await);
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_finds_nothing_ends_a_row_of_failures() {
        let (_store, mut feed, cancel) = poller();
        feed.wait_after_failure(&cancel).await;
        assert_ne!(feed.failures, BackoffTimer::new(FAILURE_BACKOFF));
        feed.wait_idle(&cancel).await;
        assert_eq!(feed.failures, BackoffTimer::new(FAILURE_BACKOFF), "the next failure is tried again soon");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_become_rare_while_nothing_happens_and_frequent_when_something_does() {
        let (store, mut feed, _) = poller();
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(idle(&mut feed).await);
        }
        // the clock of tokio ticks in milliseconds, so a poll may be one late
        let expected = [5, 10, 20, 40, 80, 160, 250, 250];
        assert!(waits.iter().zip(expected).all(|(wait, wanted)| (wanted..=wanted + 1).contains(wait)), "{waits:?}");
        store.appended().notify();
        assert_eq!(idle(&mut feed).await, 0, "an append wakes it at once");
        assert!(idle(&mut feed).await <= 6, "more may come soon");
        idle(&mut feed).await;
        feed.reset();
        assert!(idle(&mut feed).await <= 6, "more may come soon");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_later_and_later_until_one_does_not_fail() {
        let (_store, mut feed, cancel) = poller();
        for longest in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let began = Instant::now();
            assert!(feed.wait_after_failure(&cancel).await);
            let waited = began.elapsed().as_millis();
            assert!((longest / 2..=longest + 1).contains(&waited), "{waited} ms of {longest} ms");
        }
        feed.reset();
        assert_eq!(feed.failures, BackoffTimer::new(FAILURE_BACKOFF));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_cancelled_at_once() {
        let (_store, mut feed, cancel) = poller();
        cancel.cancel();
        let began = Instant::now();
        assert!(!feed.wait_after_failure(&cancel).await);
        assert!(!feed.wait_idle(&cancel).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
