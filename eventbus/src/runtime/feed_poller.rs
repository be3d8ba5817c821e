//! The poller of a store's feed, used by relay, followers and projections: decides when a reader reads again.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::clock::SharedClock,
    port::{AppendWatch, EventStore, RetryPolicy},
};

/// Shortest and longest pause between polls for events of other processes.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(5);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// Poll backoff of a feed reader: an append in its process wakes it, else it polls ever more slowly.
pub(crate) struct FeedPoller {
    appended: AppendWatch,
    interval: Duration,
    failures: u32,
    clock: SharedClock,
}

impl FeedPoller {
    pub(crate) fn new(store: &Arc<dyn EventStore>, clock: SharedClock) -> Self {
        Self { appended: store.appended().watch(), interval: POLL_INTERVAL_MIN, failures: 0, clock }
    }

    /// Resets interval and backoff, after the reader read events.
    pub(crate) fn reset(&mut self) {
        self.interval = POLL_INTERVAL_MIN;
        self.failures = 0;
    }

    /// Waits at the end of the feed for an append or the next poll. Returns `false` if it was cancelled.
    pub(crate) async fn wait_idle(&mut self, cancel: &CancellationToken) -> bool {
        self.failures = 0;
        let interval = self.interval;
        self.interval = (interval * 2).min(POLL_INTERVAL_MAX);
        // neither an append nor a shutdown waits for the poll
        tokio::select! {
            () = cancel.cancelled() => false,
            () = self.appended.appended() => { self.interval = POLL_INTERVAL_MIN; true }
            () = self.clock.sleep(interval) => true,
        }
    }

    /// Waits after a failed read, longer each time. Returns `false` if it was cancelled.
    pub(crate) async fn wait_after_failure(&mut self, cancel: &CancellationToken) -> bool {
        const BACKOFF: RetryPolicy = RetryPolicy {
            retry_for: Duration::MAX,
            max_retries: None,
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(2),
        };
        self.failures = self.failures.saturating_add(1);
        // a shutdown does not wait for the backoff
        tokio::select! {
            () = cancel.cancelled() => false,
            () = self.clock.sleep(BACKOFF.jittered(self.failures)) => true,
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
        assert!(feed.failures > 0);
        feed.wait_idle(&cancel).await;
        assert_eq!(feed.failures, 0, "the next failure is tried again soon");
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
        assert_eq!(feed.failures, 0);
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
