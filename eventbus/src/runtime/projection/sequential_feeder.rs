//! Feeding a projection event by event: its state is in memory, or it keeps its rows itself.

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{
    context::{RunnerContext, projection_role},
    event_handling::{EventRetry, FeedStop, feed_delivery},
    fed_projection::FedProjection,
    fed_types,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::delivery::HandlerError,
    runtime::{
        feed_poller::{EndCheck, FeedPoller},
        held_lease::HeldLease,
    },
    support::{
        FeedReads, read_around,
        spans::{self, FeedRead},
    },
};

/// A checkpoint of a projection that keeps its rows itself is saved at least this often, in events.
const CHECKPOINT_EVENTS_MAX: u64 = 256;

/// Feeds a projection event by event.
pub(super) struct SequentialFeeder<'a> {
    inner: &'a dyn FedProjection,
    context: &'a RunnerContext,
    /// `None` for state in memory, which every process feeds from the first event.
    held_lease: Option<&'a HeldLease>,
    /// The checkpoint in the store.
    saved_checkpoint: Position,
    end_check: EndCheck,
    stop: &'a CancellationToken,
    /// The generation of the projection's progress when the last pass began.
    generation: u64,
    /// When it was created. A state in memory is filled from the first event: the traces of older events have ended.
    created_at: OffsetDateTime,
}

impl<'a> SequentialFeeder<'a> {
    /// Creates a feeder that begins at the projection's position; `saved_checkpoint` is the one in the store.
    pub(super) fn new(
        inner: &'a dyn FedProjection,
        context: &'a RunnerContext,
        held_lease: Option<&'a HeldLease>,
        saved_checkpoint: Position,
        stop: &'a CancellationToken,
    ) -> Self {
        let (end_check, created_at) = (EndCheck::new(&*context.store), context.clock.now());
        Self { inner, context, held_lease, saved_checkpoint, end_check, stop, generation: 0, created_at }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Handles the events that the feed holds now. Returns `true` if there were any.
    ///
    /// Invariant: of the tasks of this process only this one saves the checkpoint, so a save from before a restart cannot
    /// end after the one that sets the checkpoint back.
    pub(super) async fn feed_available(&mut self, feed: &mut FeedPoller) -> Result<bool, FeedStop> {
        let (inner, context) = (self.inner, self.context);
        let (after, generation, is_set_back) = {
            let progress = inner.progress().borrow();
            (progress.position, progress.generation, progress.must_reset_checkpoint)
        };
        // set back, or not saved by the pass before
        if after != self.saved_checkpoint && !self.save_checkpoint().await? {
            return Err(FeedStop::LeaseLost);
        }
        if let Some(held_lease) = self.held_lease
            && is_set_back
        {
            fed_types::record_rebuild(&inner.definition(), context, held_lease).await?;
        }
        self.generation = generation;
        inner.progress().confirm_checkpoint_reset(generation);
        let head = feed.head().await?;
        inner.progress().note_head(head);
        if head <= after {
            return Ok(false);
        }
        let handled = self.handle_events(after, head).await;
        if !matches!(handled, Err(FeedStop::LeaseLost)) {
            // also after a failure: the retry of an event must not repeat the events handled before it
            self.save_checkpoint().await?;
        }
        handled.map(|()| true)
    }

    async fn handle_events(&mut self, after: Position, head: Position) -> Result<(), FeedStop> {
        let (inner, store) = (self.inner, &*self.context.store);
        let skips = inner.skips(store, &self.context.clock).await?;
        let records = read_around(store, after, head, &inner.definition().events.into(), &skips);
        let since = self.held_lease.is_none().then_some(self.created_at);
        let mut reads = FeedReads::new(records, || FeedRead::begin(|| projection_role(inner.name())).since(since));
        let mut handled = 0_u64;
        // the search for a rare event type takes long
        while let Some(record) = self.stop.run_until_cancelled(reads.next()).await.ok_or(FeedStop::Interrupted)?? {
            if self.held_lease.is_some_and(HeldLease::may_have_expired) {
                return Err(FeedStop::LeaseLost);
            }
            match self.handle_with_retries(&record).await {
                Ok(true) => {}
                Ok(false) => return Err(FeedStop::Interrupted),
                Err(error) => return Err(FeedStop::EventFailed(record, error)),
            }
            handled += 1;
            if handled.is_multiple_of(CHECKPOINT_EVENTS_MAX) {
                self.save_checkpoint().await?;
            }
        }
        let passed = self.end_check.passed(store, inner.progress().position(), head);
        inner.progress().advance(0, passed, self.generation);
        Ok(())
    }

    /// Handles one event. Retries it only for a projection that keeps its rows itself: state in memory may be half
    /// changed.
    ///
    /// Returns `false` if the position was set back, or the feed was cancelled between two attempts.
    async fn handle_with_retries(&self, record: &RecordedEvent) -> Result<bool, HandlerError> {
        let definition = self.inner.definition();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let delivery = feed_delivery(&definition, record.clone(), &self.context.state).with_attempt(attempts);
            let span = match record.metadata().recorded_at() {
                Some(recorded_at) if self.held_lease.is_none() && recorded_at < self.created_at => Span::none(),
                _ => spans::project(definition.name, std::slice::from_ref(record)),
            };
            let handled = self.inner.handle_from_feed(&delivery, self.generation).instrument(span.clone()).await;
            let error = match handled {
                Ok(is_next) => return Ok(is_next),
                Err(error) => error,
            };
            spans::record_error(&span, "projection_failed");
            let retry = EventRetry { position: record.position().unwrap_or_default(), attempts, error };
            if self.held_lease.is_none() || retry.is_final() {
                return Err(retry.error);
            }
            retry.log_retry(definition.name);
            if self.stop.run_until_cancelled(self.context.clock.sleep(retry.delay())).await.is_none() {
                return Ok(false);
            }
        }
    }

    /// Saves the checkpoint. Returns `false`, and saves no position, if a different process may hold the lease by now.
    pub(super) async fn save_checkpoint(&mut self) -> Result<bool, BoxError> {
        let Some(held_lease) = self.held_lease else {
            return Ok(true);
        };
        if held_lease.may_have_expired() {
            return Ok(false);
        }
        let position = self.inner.progress().position();
        if position != self.saved_checkpoint {
            self.context.store.save_checkpoint(&held_lease.lease().role, position).await?;
            self.saved_checkpoint = position;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::mpsc;

    use super::{super::inner::ProjectionInner, *};
    use crate::{
        domain::{
            clock::SharedClock,
            name::Name,
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::{AppendEvents as _, EventStore, state::StateMap},
        runtime::{feed_poller::tests::FailedOver, lease_renewer::LeaseOutage, projection::projection_role},
    };

    const TTL: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct Rows;

    #[eventbus::projection(name = "rows")]
    impl Rows {
        fn any(&self, _event: &RecordedEvent) {}
    }

    struct Seen(Vec<Option<Position>>);

    #[eventbus::projection(name = "seen_positions", manual)]
    impl Seen {
        fn any(&mut self, event: &RecordedEvent) {
            self.0.push(event.position());
        }
    }

    struct Sent(mpsc::UnboundedSender<Option<Position>>);

    #[eventbus::projection(name = "sent_positions", manual)]
    impl Sent {
        fn any(&self, event: &RecordedEvent) {
            self.0.send(event.position()).unwrap();
        }
    }

    /// The positions of an event that both servers have, and of one that the promoted server stores.
    const BOTH: [Option<Position>; 2] = [Some(Position::new(1)), Some(Position::new(2))];

    #[tokio::test(start_paused = true)]
    async fn state_in_memory_has_each_event_of_a_promoted_server_once() {
        let app = FailedOver::feed(InMemoryEventStore::new(), Seen(Vec::new())).await;
        assert_eq!(app.projected::<Seen>(Position::new(2)).await.unwrap().0, BOTH);
    }

    #[tokio::test(start_paused = true)]
    async fn a_projection_that_keeps_its_rows_itself_gets_each_event_of_a_promoted_server_once() {
        let (sender, mut sent) = mpsc::unbounded_channel();
        let _app = FailedOver::feed(InMemoryEventStore::new(), Sent(sender)).await;
        assert_eq!([sent.try_recv(), sent.try_recv()], BOTH.map(Ok));
        assert!(sent.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_left_to_the_next_owner_when_the_role_has_passed() {
        let store = InMemoryEventStore::new();
        let stream = StreamId::parse("Order", "1").unwrap();
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
        let (owner, projected) = (Name::from_static("a"), ProjectionInner::new(Rows, None));
        let store: Arc<dyn EventStore> = Arc::new(store);
        let context = RunnerContext::new(store, SharedClock::SYSTEM, StateMap::new(), owner.clone(), TTL);
        let mut feed = FeedPoller::new(&context.feed_head);
        let lease_request = context.lease_request(projection_role("rows"), owner, LeaseOutage::new(&context.clock));
        let stop = CancellationToken::new();
        let held_lease = lease_request.acquire(&stop).await.unwrap().unwrap();
        let mut feeder = SequentialFeeder::new(&projected, &context, Some(&held_lease), Position::START, &stop);
        assert!(matches!(feeder.feed_available(&mut feed).await, Ok(true)));
        assert_eq!(feeder.saved_checkpoint, 1);

        // no timer fires meanwhile, as in a paused process
        tokio::time::advance(TTL).await;
        projected.progress().restart();
        assert!(matches!(feeder.feed_available(&mut feed).await, Err(FeedStop::LeaseLost)));
        assert!(!projected.progress().follow_checkpoint(Position::new(1)), "the next owner handles all events again");
    }
}
