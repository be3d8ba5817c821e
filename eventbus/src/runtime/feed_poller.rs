//! The poller of a store's feed, used by relay, followers and projections: decides when a reader reads again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    feed_head::{FAILURE_BACKOFF, FeedHead, PolledHead},
    head_poll::{HeadPoll, PAUSE_MAX},
};
use crate::{
    domain::stream::Position,
    port::{
        ReadError,
        backoff::{Backoff, BackoffTimer},
    },
};

/// The pauses between polls of anything else that follows from events, such as the checkpoint of another process.
pub(crate) const FOLLOW_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), PAUSE_MAX);

/// The head of the feed for one reader, and its waits: for a later head, or after a failed read.
///
/// The reader shares the polls of the app's [`FeedHead`]; without its task the reader polls by itself.
pub(crate) struct FeedPoller {
    feed_head: FeedHead,
    polls: Polls,
    failures: BackoffTimer,
    /// Set if a request of this reader has failed since the last [`FeedPoller::take_failure`].
    has_failed: bool,
}

enum Polls {
    /// Those of the app.
    Shared {
        polled: watch::Receiver<PolledHead>,
        /// The head that this reader knows: as polled, or as it has asked for itself since.
        known: Option<Position>,
        /// The number of failed polls at the last [`FeedPoller::take_failure`].
        seen_failures: u64,
    },
    /// This reader's.
    Own(HeadPoll),
}

impl Polls {
    fn own(feed_head: &FeedHead) -> Self {
        Self::Own(HeadPoll::new(Arc::clone(feed_head.store()), feed_head.clock().clone()))
    }
}

impl FeedPoller {
    pub(crate) fn new(feed_head: &FeedHead) -> Self {
        let polls = match feed_head.subscribe() {
            // nothing is known: the reader asks first, as it may have to read events after the last poll
            Some(polled) => {
                let seen_failures = polled.borrow().failures;
                Polls::Shared { polled, known: None, seen_failures }
            }
            None => Polls::own(feed_head),
        };
        let failures = BackoffTimer::new(FAILURE_BACKOFF);
        Self { feed_head: feed_head.clone(), polls, failures, has_failed: false }
    }

    /// Returns the head of the feed, at most as old as the pause between two polls.
    pub(crate) async fn head(&mut self) -> Result<Position, ReadError> {
        let head = self.load_head().await;
        self.has_failed |= head.is_err();
        head
    }

    /// Returns `true` if a request for the head has failed since the last call, of this reader or of the app's task.
    pub(crate) fn take_failure(&mut self) -> bool {
        let mut has_failed = std::mem::take(&mut self.has_failed);
        if let Polls::Shared { polled, seen_failures, .. } = &mut self.polls {
            let failures = polled.borrow().failures;
            has_failed |= std::mem::replace(seen_failures, failures) != failures;
        }
        has_failed
    }

    async fn load_head(&mut self) -> Result<Position, ReadError> {
        let (polled, known) = match &mut self.polls {
            Polls::Own(poll) => return poll.poll().await,
            Polls::Shared { polled, known, .. } => (polled, known),
        };
        // marked as seen before the store is asked: a poll from now on ends the next wait
        if polled.has_changed().unwrap_or_default() {
            *known = polled.borrow_and_update().head;
        }
        if let Some(head) = *known {
            return Ok(head);
        }
        // of two heads the higher one holds; after the lower one the reader would wait for a change from the higher one
        let last = polled.borrow().head.unwrap_or_default();
        let head = self.feed_head.store().head().await?.max(last);
        *known = Some(head);
        let is_unpolled = polled.borrow().head.is_none();
        if is_unpolled {
            self.feed_head.begin_polls();
        }
        Ok(head)
    }

    /// Resets the pauses, after the reader read events.
    pub(crate) fn reset(&mut self) {
        self.failures.reset();
        if let Polls::Own(poll) = &mut self.polls {
            poll.reset();
        }
    }

    /// Waits at the end of the feed until there may be a later head, at most for `longest`. Returns `false` if it was
    /// cancelled.
    pub(crate) async fn wait_idle(&mut self, longest: Option<Duration>, cancel: &CancellationToken) -> bool {
        self.failures.reset();
        let feed_head = self.feed_head.clone();
        let has_ended = async {
            match &mut self.polls {
                Polls::Own(poll) => {
                    poll.wait().await;
                    false
                }
                // the head keeps the sender; a task that has ended polls no more
                Polls::Shared { polled, known, .. } => tokio::select! {
                    _ = polled.changed() => {
                        *known = polled.borrow().head;
                        false
                    }
                    () = feed_head.ended() => true,
                },
            }
        };
        let longest = async {
            match longest {
                Some(longest) => feed_head.clock().sleep(longest).await,
                None => std::future::pending().await,
            }
        };
        // neither a later head nor a shutdown waits for the end of the pause
        let has_ended = tokio::select! {
            () = cancel.cancelled() => return false,
            has_ended = has_ended => has_ended,
            () = longest => false,
        };
        if has_ended {
            self.has_failed = self.take_failure();
            self.polls = Polls::own(&feed_head);
        }
        true
    }

    /// Waits after a failed read, longer each time. Returns `false` if it was cancelled.
    pub(crate) async fn wait_after_failure(&mut self, cancel: &CancellationToken) -> bool {
        // a shutdown does not wait for the backoff
        tokio::select! {
            () = cancel.cancelled() => false,
            () = self.feed_head.clock().sleep(self.failures.next_jittered()) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        domain::clock::SharedClock,
        memory::InMemoryEventStore,
        port::{EventStore, ReadFeed as _},
    };

    fn poller() -> (Arc<dyn EventStore>, FeedPoller, CancellationToken) {
        let store: Arc<dyn EventStore> = Arc::new(InMemoryEventStore::new());
        let feed = FeedPoller::new(&FeedHead::new(Arc::clone(&store), SharedClock::SYSTEM));
        (store, feed, CancellationToken::new())
    }

    /// Returns how long the poller waits, in milliseconds.
    async fn idle(feed: &mut FeedPoller) -> u128 {
        let began = Instant::now();
        assert!(feed.wait_idle(None, &CancellationToken::new()).await);
        began.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_finds_nothing_ends_a_row_of_failures() {
        let (_store, mut feed, cancel) = poller();
        feed.wait_after_failure(&cancel).await;
        assert_ne!(feed.failures, BackoffTimer::new(FAILURE_BACKOFF));
        feed.wait_idle(None, &cancel).await;
        assert_eq!(feed.failures, BackoffTimer::new(FAILURE_BACKOFF), "the next failure is tried again soon");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_become_rare_while_nothing_happens_and_frequent_when_something_does() {
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
    async fn a_wait_ends_when_other_work_is_due() {
        let (_store, mut feed, cancel) = poller();
        let head = FeedHead::new(Arc::new(InMemoryEventStore::new()), SharedClock::SYSTEM);
        let task = head.share();
        let mut shared = FeedPoller::new(&head);
        let began = Instant::now();
        assert!(feed.wait_idle(Some(Duration::ZERO), &cancel).await);
        assert!(shared.wait_idle(Some(Duration::from_secs(9)), &cancel).await);
        assert_eq!(began.elapsed().as_secs(), 9);
        drop(task);
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
    async fn a_wait_is_cancelled_at_once() {
        let (_store, mut feed, cancel) = poller();
        cancel.cancel();
        let began = Instant::now();
        assert!(!feed.wait_after_failure(&cancel).await);
        assert!(!feed.wait_idle(None, &cancel).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
