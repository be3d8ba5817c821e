//! Publishing to a bus that moves the position of the store in the same atomic step in which it adds the events.
//!
//! Invariant: the bus's answer decides. After any doubt the relay asks the bus, and continues from the bus's position.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{
    RelayError,
    checkpoint_names::{halt_checkpoint_name, load_halt},
    error::relay_error_of_publish,
    group_floors::{GroupCheck, GroupFloorTracker, ResyncPlan, plan_resync},
    leadership::{FeedPublisher, PublishStep},
    range::{FeedRange, RangeReader},
    restore_watch::{RestoreWatch, holds_event},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{
        EventBus, EventStore, PublishError, RelayTarget,
        relay::{PublishedPosition, Publisher, RangeOutcome, ResyncOutcome, ResyncRequest},
    },
    support::{is_beyond_end, spans},
};

/// Interval of the group checks. An idle relay asks the bus for its position as often, to notice that the bus lost
/// data. That the store lost data it notices at the next poll of the head.
const GROUP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes ranges, each from the position that the bus keeps; its states:
///
/// | State | Event | Next state |
/// |---|---|---|
/// | starting | the store has a halt checkpoint | stopped: `StoreBehindBus` |
/// | starting, publishing | `Published` | publishing, behind the range |
/// | starting, publishing | `Moved(p)` | publishing from `p`; stopped if the store is behind the bus |
/// | starting, publishing | `Lost`, also as the answer to a group check | resync from the floor of `plan_resync` |
/// | publishing | a group check finds a gap | rewind to the lowest saved floor of these groups, else to where it is |
/// | publishing | the error `Refused` for an event | publishing the events before it, then stopped: `EventRefused` |
/// | starting, publishing | the error `Refused` for all events | stopped: `Refused` |
/// | starting, publishing | a different error, the outcome may be unknown | the same: reads and sends the range again, and the bus tells how far it is |
/// | publishing | the store is behind the bus (checked first, after failures, after a lower head or a possible restore, while idle) | stopped: `StoreBehindBus` |
/// | resync, rewind | `At(p)` | publishing from `p` |
/// | resync, rewind | `Moved(p)`: no change was needed | publishing from `p`; stopped if the store is behind the bus |
/// | resync, rewind | `OtherStore` | stopped: `OtherStore` |
/// | resync, rewind | an error | starting or publishing: the bus reports the loss or gap again |
/// | any | `Fenced` | ended |
pub(super) struct AtomicPublisher<'a> {
    store: &'a dyn EventStore,
    bus: &'a dyn EventBus,
    status: &'a RelayStatusCell,
    target: &'a dyn RelayTarget,
    epoch: u64,
    /// Set if the stream may carry the events of other stores.
    is_stream_shared: bool,
    /// Set once the bus has answered for the first time.
    publisher: Option<Publisher>,
    reader: RangeReader<'a>,
    /// The range to publish next, if it was read already.
    next_range: Option<FeedRange>,
    last_bus_answer: Instant,
    groups_checked_at: Instant,
    group_tracker: GroupFloorTracker,
    /// A check is due first, too: the store may be a restored copy, which lacks published events.
    restore_watch: RestoreWatch,
}

impl FeedPublisher for AtomicPublisher<'_> {
    // the leadership saves the position as the checkpoint
    const SAVES_CHECKPOINT: bool = false;
    const IDLE_INTERVAL: Option<Duration> = Some(GROUP_CHECK_INTERVAL);

    fn note_failure(&mut self) {
        self.restore_watch.note_failure();
    }

    async fn step(&mut self, head: Position) -> Result<PublishStep, BoxError> {
        self.restore_watch.note_head(head);
        self.restore_watch.note_restores(self.store);
        let step = match self.publisher {
            Some(publisher) => self.publish_next(publisher).await,
            None => self.start().await,
        };
        if step.is_err() {
            self.restore_watch.note_failure();
        }
        step
    }
}

impl<'a> AtomicPublisher<'a> {
    pub(super) fn new(
        store: &'a dyn EventStore,
        bus: &'a dyn EventBus,
        status: &'a RelayStatusCell,
        target: &'a dyn RelayTarget,
        epoch: u64,
        is_stream_shared: bool,
    ) -> Self {
        let (now, mut restore_watch) = (status.clock().instant(), RestoreWatch::new(store));
        restore_watch.note_failure();
        Self {
            store,
            bus,
            status,
            target,
            epoch,
            is_stream_shared,
            publisher: None,
            reader: RangeReader::new(store, bus.destination(), status.clock()),
            next_range: None,
            last_bus_answer: now,
            groups_checked_at: now,
            group_tracker: GroupFloorTracker::new(status.clock().clone()),
            restore_watch,
        }
    }

    async fn publish_next(&mut self, publisher: Publisher) -> Result<PublishStep, BoxError> {
        if self.restore_watch.is_check_due()
            && let Some(stopped) = self.check_store_behind(publisher, self.status.position()).await?
        {
            return Ok(stopped);
        }
        if let Some(step) = self.check_groups_if_due(publisher).await {
            return Ok(step);
        }
        let position = self.status.position();
        let range = match self.next_range.take() {
            Some(range) => range,
            None => self.reader.read_next(position, self.restore_watch.head()).await?,
        };
        self.restore_watch.note_restores(self.store);
        if self.restore_watch.is_check_due() {
            // the range may be from the older copy: the next step checks the store, and reads again
            return Ok(PublishStep::Published);
        }
        if range.moves_position() {
            return self.publish_range(publisher, range).await;
        }
        if self.status.clock().elapsed(self.last_bus_answer) < GROUP_CHECK_INTERVAL {
            return Ok(PublishStep::CaughtUp);
        }
        if self.restore_watch.head() < position
            && let Some(stopped) = self.check_store_behind(publisher, position).await?
        {
            return Ok(stopped);
        }
        self.publish_range(publisher, range).await
    }

    /// Asks the bus for its position, unless an operator has to decide first.
    async fn start(&mut self) -> Result<PublishStep, BoxError> {
        if let Some(published) = load_halt(self.store, self.destination()).await? {
            let newest = self.store.head().await?;
            return Ok(self.store_behind(published, newest));
        }
        let publisher = Publisher { store: self.store.store_id().await?, epoch: self.epoch };
        let step = self.publish_range(publisher, FeedRange::empty(Position::START)).await?;
        self.publisher = Some(publisher);
        // the empty range only queries the position: the feed may hold more events
        Ok(if matches!(step, PublishStep::CaughtUp) { PublishStep::Published } else { step })
    }

    /// Publishes a range, and reads the next one at the same time.
    async fn publish_range(&mut self, publisher: Publisher, range: FeedRange) -> Result<PublishStep, BoxError> {
        let (ranges, head) = (&mut self.reader, self.restore_watch.head());
        let read_ahead = async {
            if !range.is_full {
                return None;
            }
            // drops an error: reading the range when it is due returns it again; and an empty range: the head may be
            // later when it is due
            ranges.read_next(range.through, head).await.ok().filter(FeedRange::moves_position)
        };
        // a range without events only asks the bus for its position
        let has_events = !range.events.is_empty();
        let span = if has_events { spans::relay(self.bus.destination(), &range.events) } else { Span::none() };
        let publish = self.target.publish_range(publisher, range.as_publish_range()).instrument(span.clone());
        let (answer, ahead) = tokio::join!(publish, read_ahead);
        let answer = answer.inspect_err(|_| spans::record_error(&span, "publish_failed"));
        if answer.is_ok() {
            self.last_bus_answer = self.status.clock().instant();
        }
        match answer {
            Ok(RangeOutcome::Published(ids)) => {
                self.status.record_published(&range, ids);
                self.next_range = ahead;
                Ok(if range.moves_position() { PublishStep::Published } else { PublishStep::CaughtUp })
            }
            Ok(RangeOutcome::Moved(position)) => self.follow_bus(publisher, position).await,
            Ok(RangeOutcome::Fenced) => Ok(PublishStep::Fenced),
            Ok(RangeOutcome::Lost) => self.resync(publisher).await,
            Err(error) => self.handle_publish_error(range, error),
        }
    }

    fn handle_publish_error(&mut self, mut range: FeedRange, error: PublishError) -> Result<PublishStep, BoxError> {
        let stopped = relay_error_of_publish(error, &range.events);
        if let Ok(RelayError::EventRefused { position, .. }) = stopped
            && range.truncate_before(position)
        {
            self.next_range = Some(range);
            return Ok(PublishStep::Published);
        }
        stopped.map(PublishStep::Stopped).map_err(Into::into)
    }

    /// Continues from `position`, where the bus is; stops if the store is behind it.
    async fn follow_bus(&mut self, publisher: Publisher, position: Position) -> Result<PublishStep, BoxError> {
        if let Some(stopped) = self.check_store_behind(publisher, position).await? {
            return Ok(stopped);
        }
        Ok(self.continue_from(position))
    }

    fn continue_from(&mut self, position: Position) -> PublishStep {
        self.next_range = None;
        self.status.set_position(position);
        PublishStep::Published
    }

    /// Sets the bus's position anew: the bus lost published events, or does not know the store.
    async fn resync(&mut self, publisher: Publisher) -> Result<PublishStep, BoxError> {
        let has_backlogs = self.bus.backlogs().is_some();
        let ResyncPlan { floor, groups, fresh } = plan_resync(self.store, self.destination(), has_backlogs).await?;
        let request = ResyncRequest { floor, groups: &groups, new_groups: &fresh, is_shared: self.is_stream_shared };
        let outcome = self.target.resync(publisher, request).await?;
        let destination = self.destination();
        match outcome {
            ResyncOutcome::At(Position::START) => {
                tracing::info!(%destination, groups = groups.len(), "the relay publishes all events of the store");
            }
            ResyncOutcome::At(position) => tracing::warn!(
                %destination, %position, groups = groups.len(),
                "the bus holds no event that the relay has published up to here: the relay publishes the events after it"
            ),
            _ => {}
        }
        self.apply_resync(publisher, outcome).await
    }

    /// Checks the groups once a second. A failed check is retried a second later: publishing need not wait for it.
    async fn check_groups_if_due(&mut self, publisher: Publisher) -> Option<PublishStep> {
        if self.status.clock().elapsed(self.groups_checked_at) < GROUP_CHECK_INTERVAL {
            return None;
        }
        self.groups_checked_at = self.status.clock().instant();
        let checked = self.check_groups(publisher).await;
        self.group_tracker.log_problems(self.destination(), self.status.position(), checked.as_ref().err());
        checked.unwrap_or_default()
    }

    async fn check_groups(&mut self, publisher: Publisher) -> Result<Option<PublishStep>, BoxError> {
        Ok(match self.group_tracker.check(self.store, self.destination(), self.target, publisher).await? {
            GroupCheck::Healthy => None,
            GroupCheck::Lost => Some(self.resync(publisher).await?),
            GroupCheck::Gap(floor) => {
                // groups without a saved floor get no earlier events: the rewind only ends the bus's report of a gap
                let floor = floor.unwrap_or(self.status.position());
                let outcome = self.target.rewind(publisher, floor).await?;
                Some(self.apply_resync(publisher, outcome).await?)
            }
        })
    }

    async fn apply_resync(&mut self, publisher: Publisher, outcome: ResyncOutcome) -> Result<PublishStep, BoxError> {
        match outcome {
            ResyncOutcome::At(position) => Ok(self.continue_from(position)),
            ResyncOutcome::Moved(position) => self.follow_bus(publisher, position).await,
            ResyncOutcome::Fenced => Ok(PublishStep::Fenced),
            ResyncOutcome::OtherStore(other) => {
                Ok(PublishStep::Stopped(self.other_store_error(publisher.store, other)))
            }
        }
    }

    /// Returns the stop, and saves the halt checkpoint, if the store is an older copy than the one published last: it
    /// would assign published positions again, to new events. A part of the bus may be ahead of `published`, if a relay
    /// died half way through a range.
    async fn check_store_behind(
        &mut self,
        publisher: Publisher,
        published: Position,
    ) -> Result<Option<PublishStep>, BoxError> {
        let mut published_positions = self.target.published_positions(publisher).await?;
        published_positions.dedup();
        let newest = self.store.head().await?;
        let is_beyond = published > newest && is_beyond_end(self.store, published).await?;
        let mut ahead_position = is_beyond.then_some(published);
        for PublishedPosition { position, event_id } in published_positions {
            if let Some(event_id) = event_id
                && !holds_event(self.store, position, event_id).await?
            {
                ahead_position = ahead_position.max(Some(position));
            }
        }
        self.restore_watch.mark_checked();
        // events that were read before the check may be of the former copy
        self.next_range = None;
        self.reader.close_feed();
        let Some(published) = ahead_position else {
            return Ok(None);
        };
        self.store.save_checkpoint(&halt_checkpoint_name(self.destination()), published).await?;
        Ok(Some(self.store_behind(published, newest)))
    }

    fn store_behind(&self, published: Position, newest: Position) -> PublishStep {
        PublishStep::Stopped(RelayError::StoreBehindBus { destination: self.destination().clone(), published, newest })
    }

    fn other_store_error(&self, own: Uuid, other: Uuid) -> RelayError {
        RelayError::OtherStore { destination: self.destination().clone(), own, other }
    }

    fn destination(&self) -> &'a Name {
        self.status.destination()
    }
}
