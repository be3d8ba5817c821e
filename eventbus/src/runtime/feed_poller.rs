//! The poller of a store's feed, used by relay, followers and projections: decides when a reader reads again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    feed_head::{FAILURE_BACKOFF, FeedHead, LoadedPosition, PolledHead},
    head_poll::{HeadPoll, PAUSE_MAX},
};
use crate::{
    domain::stream::Position,
    port::{
        EventStore, ReadError,
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
    /// The polls of the app.
    Shared {
        polled: watch::Receiver<PolledHead>,
        /// The head that this reader knows: as polled, or as it has asked for itself since.
        known: Option<LoadedPosition>,
        /// The number of failed polls at the last [`FeedPoller::take_failure`].
        seen_failures: u64,
    },
    /// The polls of this reader.
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

    /// Returns the head of the feed, at most as old as the pause between two polls, and loaded after the last [possible
    /// restore](crate::port::AppendSignal::possible_restores).
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
        let store = self.feed_head.store();
        let possible_restores = store.appended().possible_restores();
        // a head from before a possible restore may come from a former server
        let is_current = |head: &LoadedPosition| head.possible_restores == possible_restores;
        if let Some(head) = known.filter(is_current) {
            return Ok(head.position);
        }
        // of two heads the higher one holds; after the lower one the reader would wait for a change from the higher one
        let last = polled.borrow().head.filter(is_current).map(|head| head.position).unwrap_or_default();
        let position = store.head().await?.max(last);
        *known = Some(LoadedPosition { position, possible_restores });
        let is_unpolled = polled.borrow().head.is_none();
        if is_unpolled {
            self.feed_head.begin_polls();
        }
        Ok(position)
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

/// Tells one reader, when it has read the feed up to a head, how far it has come: usually to that head.
///
/// After a failover to a replica that lacks the last events, the head may come from the former server, and the page
/// from the promoted one, which later stores different events up to that head. The reader then stays at the last
/// event that it has read, and reads from there again.
pub(crate) struct EndCheck {
    /// The number of [possible restores](crate::port::AppendSignal::possible_restores) at the last end, or when the
    /// check was made: before the head of the next end is loaded.
    possible_restores: u64,
    /// Where the reader stays to read the end again.
    repeats_from: Option<Position>,
}

impl EndCheck {
    /// Makes a check, before the reader loads its first head.
    pub(crate) fn new(store: &dyn EventStore) -> Self {
        Self { possible_restores: store.appended().possible_restores(), repeats_from: None }
    }

    /// Returns the position that the reader has passed, after it has found no event from `last` to `head`: `head`, or
    /// `last` if it has to read from there again.
    pub(crate) fn passed(&mut self, store: &dyn EventStore, last: Position, head: Position) -> Position {
        let now = store.appended().possible_restores();
        let may_be_restored = std::mem::replace(&mut self.possible_restores, now) != now;
        // once: where connections are often made anew, a long search would never end
        let repeats = may_be_restored && last < head && self.repeats_from != Some(last);
        self.repeats_from = repeats.then_some(last);
        self.repeats_from.unwrap_or(head)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use async_trait::async_trait;
    use time::OffsetDateTime;
    use tokio::time::{Instant, timeout};
    use uuid::Uuid;

    use super::*;
    use crate::{
        App,
        domain::{
            clock::SharedClock,
            name::Name,
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, AppendSignal, FeedFilter, MissingEvent, ReadFeed, RecordStream},
        runtime::definition::Projection,
        testkit::delegate,
    };

    pub(crate) const MINUTE: Duration = Duration::from_secs(60);

    /// A store with two events. At the first read of its feed, a replica with only the first one replaces the server.
    #[derive(Clone)]
    pub(crate) struct FailedOver {
        promoted: Arc<dyn EventStore>,
        is_promoted: Arc<watch::Sender<bool>>,
    }

    impl FailedOver {
        pub(crate) async fn over(promoted: impl EventStore) -> Self {
            let store = Self { promoted: Arc::new(promoted), is_promoted: Arc::default() };
            store.append().await;
            store
        }

        pub(crate) fn fail_over(&self) {
            if !self.is_promoted.send_replace(true) {
                self.appended().note_possible_restore();
            }
        }

        async fn until_failed_over(&self) {
            let mut is_promoted = self.is_promoted.subscribe();
            timeout(MINUTE, is_promoted.wait_for(|is_promoted| *is_promoted)).await.unwrap().unwrap();
        }

        /// Feeds a projection over the failover, up to an event that the promoted server stores in place of the lost one.
        pub(crate) async fn feed<P: Projection>(promoted: impl EventStore, projection: P) -> App {
            let store = Self::over(promoted).await;
            let app = App::builder().store(store.clone()).without_relay().projection(projection).start().await.unwrap();
            store.until_failed_over().await;
            drop(app.projected::<P>(store.append().await).await.unwrap());
            app
        }

        /// Stores an event on the promoted server.
        pub(crate) async fn append(&self) -> Position {
            let stream = StreamId::parse("Order", "1").unwrap();
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
            let stored = self.promoted.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
            stored[0].position().unwrap()
        }
    }

    delegate!(FailedOver, self => self.promoted; AppendEvents, ReadStream, Checkpoints, Leases, EventStore);

    #[async_trait]
    impl ReadFeed for FailedOver {
        fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
            self.fail_over();
            self.promoted.read_feed(after, through, filter)
        }

        async fn head(&self) -> Result<Position, ReadError> {
            let is_promoted = *self.is_promoted.borrow();
            if is_promoted { self.promoted.head().await } else { Ok(Position::new(2)) }
        }

        async fn count_events(
            &self,
            after: Position,
            through: Position,
            filter: &FeedFilter,
        ) -> Result<u64, ReadError> {
            self.promoted.count_events(after, through, filter).await
        }

        async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
            self.promoted.first_recorded_after(after).await
        }

        async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
            self.promoted.find_missing_event(stream).await
        }

        async fn store_id(&self) -> Result<Uuid, ReadError> {
            self.promoted.store_id().await
        }

        fn appended(&self) -> &AppendSignal {
            self.promoted.appended()
        }
    }

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
    async fn a_reader_that_shares_polls_asks_again_after_a_possible_restore() {
        let (store, cancel) = (FailedOver::over(InMemoryEventStore::new()).await, CancellationToken::new());
        let head = FeedHead::new(Arc::new(store.clone()), SharedClock::SYSTEM);
        tokio::spawn(head.share().run(cancel.clone()));
        let mut feed = FeedPoller::new(&head);
        assert_eq!(feed.head().await.unwrap(), 2);
        assert!(timeout(MINUTE, feed.wait_idle(None, &cancel)).await.unwrap(), "the first poll of the task");
        assert_eq!(feed.head().await.unwrap(), 2);
        store.fail_over();
        assert_eq!(feed.head().await.unwrap(), 1);
        store.append().await;
        // the next poll finds the head of the former server again
        assert!(timeout(MINUTE, feed.wait_idle(None, &cancel)).await.unwrap());
        assert_eq!(feed.head().await.unwrap(), 2);
    }

    #[test]
    fn an_end_is_read_again_once_after_a_possible_restore() {
        let store = InMemoryEventStore::new();
        let mut end_check = EndCheck::new(&store);
        let mut passed = |last, head| end_check.passed(&store, Position::new(last), Position::new(head));
        assert_eq!(passed(1, 9), 9);
        // the last event, the head, and the position that is passed, each after a possible restore
        for (last, head, expected) in [(1, 9, 1), (1, 9, 9), (1, 9, 1), (3, 9, 3), (9, 9, 9), (9, 12, 9)] {
            store.appended().note_possible_restore();
            assert_eq!(passed(last, head), expected);
        }
        assert_eq!(passed(9, 12), 12);
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
