//! The publisher: reads the feed in ranges and publishes them, while this process holds the lease.
//!
//! The bus moves its record of the store in the same atomic step in which it adds the events.
//!
//! Invariant: the bus's answer decides. After any doubt the relay asks the bus, and continues from the bus's record.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{
    RelayError,
    checkpoint_names::{halt_checkpoint_name, load_halt},
    error::{is_shut_down, relay_error_of_publish, relay_error_of_read},
    fork::find_fork,
    range::{FeedRange, RANGE_LIMITS},
    status::RelayStatusCell,
};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{
        EventBus, EventStore, FeedFilter, PublishError, RelayTarget,
        relay::{PublishRange, PublishedPosition, RangeOutcome},
    },
    runtime::{
        feed_head::FeedHead,
        feed_poller::FeedPoller,
        page_reader::PageReader,
        restore_watch::{RestoreWatch, holds_event},
    },
    support::{is_beyond_end, relay_to, spans},
};

/// Interval at which an idle relay asks the bus for its record, to notice that the bus lost data or that an operator set
/// the record back. That the store lost data it notices at the next poll of the head.
const RECORD_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the relay waits for its own end after the bus was shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Outcome of one step.
#[derive(Debug)]
enum PublishStep {
    /// The relay goes on at once: there may be more events to publish.
    Published,
    /// All events are published.
    CaughtUp,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Reason why publishing ended.
#[derive(Debug)]
pub(super) enum PublishEnd {
    /// The app ended it, or this process does not hold the lease any more.
    Cancelled,
    /// Only an operator can help.
    Stopped(RelayError),
}

/// Publishes ranges, each from the record that the bus keeps; its states:
///
/// | State | Event | Next state |
/// |---|---|---|
/// | starting | the store has a halt checkpoint | stopped: `StoreBehindBus` |
/// | starting, publishing | the bus has no record, and carries the events of a different store only | stopped: `OtherStore` |
/// | starting, publishing | the bus has no record of any store | sets it to the checkpoint of the store; publishing from there |
/// | starting, publishing | the record is a different one | publishing from it; stopped if the store is behind the bus |
/// | publishing | `Published` | publishing, behind the range |
/// | publishing | the error `Refused` for an event | publishing the events before it, then stopped: `EventRefused` |
/// | publishing | the error `Refused` for all events | stopped: `Refused` |
/// | starting, publishing | a different error, the outcome may be unknown | the same: reads and sends the range again, and the bus tells how far it is |
/// | publishing | the store is behind the bus (checked first, after failures, after a lower head or a possible restore, while idle) | stopped: `StoreBehindBus` |
pub(super) struct Publisher<'a> {
    store: &'a dyn EventStore,
    bus: &'a dyn EventBus,
    status: &'a RelayStatusCell,
    target: &'a dyn RelayTarget,
    /// Set if the stream may carry the events of other stores.
    is_stream_shared: bool,
    /// The store, once the bus has answered for the first time.
    store_id: Option<Uuid>,
    /// The record of the store, as the bus told it last.
    record: PublishedPosition,
    reader: PageReader<'a>,
    /// The range to publish next, if it was read already.
    next_range: Option<FeedRange>,
    last_bus_answer: Instant,
    /// A check is due first, too: the store may be a restored copy, which lacks published events.
    restore_watch: RestoreWatch,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        store: &'a dyn EventStore,
        bus: &'a dyn EventBus,
        status: &'a RelayStatusCell,
        target: &'a dyn RelayTarget,
        is_stream_shared: bool,
    ) -> Self {
        let (now, mut restore_watch) = (status.clock().instant(), RestoreWatch::new(store));
        restore_watch.note_failure();
        Self {
            store,
            bus,
            status,
            target,
            is_stream_shared,
            store_id: None,
            record: PublishedPosition::default(),
            reader: PageReader::new(store, RANGE_LIMITS).named(relay_to(bus.destination()), status.clock()),
            next_range: None,
            last_bus_answer: now,
            restore_watch,
        }
    }

    /// Publishes until cancelled or stopped. At the end of the feed, `gather` passes between two publications.
    pub(super) async fn run(
        &mut self,
        feed_head: &FeedHead,
        gather: Duration,
        cancel: &CancellationToken,
    ) -> PublishEnd {
        let (status, mut feed) = (self.status, FeedPoller::new(feed_head));
        while !cancel.is_cancelled() {
            let head = feed.head().await;
            if feed.take_failure() {
                self.restore_watch.note_failure();
            }
            let end = head.as_ref().copied().unwrap_or_default();
            let step = match head {
                Ok(head) => self.step(head).await,
                Err(error) => Err(error.into()),
            };
            match step {
                Ok(PublishStep::Published) => {
                    feed.reset();
                    if status.position() >= end && gather > Duration::ZERO {
                        cancel.run_until_cancelled(status.clock().sleep(gather)).await;
                    }
                }
                Ok(PublishStep::CaughtUp) => {
                    status.set_caught_up();
                    feed.wait_idle(Some(RECORD_CHECK_INTERVAL), cancel).await;
                }
                Ok(PublishStep::Stopped(error)) => return PublishEnd::Stopped(error),
                // a retry would read the same damaged event
                Err(error) => match relay_error_of_read(error, status.destination(), status.position()) {
                    Ok(damaged) => return PublishEnd::Stopped(damaged),
                    Err(error) => {
                        // an app that shuts down stops its bus first and cancels the relay right after: that is no outage
                        let is_no_outage = is_shut_down(&error)
                            && cancel.run_until_cancelled(status.clock().sleep(SHUTDOWN_GRACE)).await.is_none();
                        if !is_no_outage {
                            status.set_problem(&error);
                            feed.wait_after_failure(cancel).await;
                        }
                    }
                },
            }
        }
        PublishEnd::Cancelled
    }

    async fn step(&mut self, head: Position) -> Result<PublishStep, BoxError> {
        self.restore_watch.note_head(head);
        self.restore_watch.note_restores(self.store);
        let step = match self.store_id {
            Some(store_id) => self.publish_next(store_id).await,
            None => self.start().await,
        };
        if step.is_err() {
            self.restore_watch.note_failure();
        }
        step
    }

    /// Asks the bus for its record, unless an operator has to decide first.
    async fn start(&mut self) -> Result<PublishStep, BoxError> {
        if let Some(published) = load_halt(self.store, self.destination()).await? {
            return self.store_behind(published).await;
        }
        let store_id = self.store.store_id().await?;
        let step = self.read_record(store_id).await?;
        self.store_id = Some(store_id);
        Ok(step)
    }

    async fn publish_next(&mut self, store_id: Uuid) -> Result<PublishStep, BoxError> {
        if self.restore_watch.is_check_due()
            && let Some(stopped) = self.check_store_behind(self.record).await?
        {
            return Ok(stopped);
        }
        let range = match self.next_range.take() {
            Some(range) => range,
            None => {
                let head = self.restore_watch.head();
                self.reader.read(self.record.position, head, &FeedFilter::all()).await?.into()
            }
        };
        self.restore_watch.note_restores(self.store);
        if self.restore_watch.is_check_due() {
            // the range may be from the older copy: the next step checks the store, and reads again
            return Ok(PublishStep::Published);
        }
        if range.moves_position() {
            return self.publish_range(store_id, range).await;
        }
        if self.status.clock().elapsed(self.last_bus_answer) < RECORD_CHECK_INTERVAL {
            return Ok(PublishStep::CaughtUp);
        }
        self.read_record(store_id).await
    }

    /// Compares the record of the bus with the known one, and continues from it.
    async fn read_record(&mut self, store_id: Uuid) -> Result<PublishStep, BoxError> {
        let record = self.target.published_position(store_id).await?;
        self.last_bus_answer = self.status.clock().instant();
        match record {
            None => self.begin(store_id).await,
            Some(record) if self.store_id.is_some() && record == self.record => {
                if self.restore_watch.head() < record.position
                    && let Some(stopped) = self.check_store_behind(record).await?
                {
                    return Ok(stopped);
                }
                Ok(PublishStep::CaughtUp)
            }
            Some(record) => self.follow_bus(record).await,
        }
    }

    /// Publishes a range, and reads the next one at the same time.
    async fn publish_range(&mut self, store_id: Uuid, range: FeedRange) -> Result<PublishStep, BoxError> {
        let (reader, head) = (&mut self.reader, self.restore_watch.head());
        let read_ahead = async {
            if !range.is_full {
                return None;
            }
            // drops an error: reading the range when it is due returns it again; and an empty range: the head may be
            // later when it is due
            let page = reader.read(range.through, head, &FeedFilter::all()).await.ok()?;
            Some(FeedRange::from(page)).filter(FeedRange::moves_position)
        };
        let has_events = !range.events.is_empty();
        let span = if has_events { spans::relay(self.bus.destination(), &range.events) } else { Span::none() };
        let publish_range = PublishRange { after: self.record, through: range.through, events: &range.events };
        let publish = self.target.publish_range(store_id, publish_range).instrument(span.clone());
        let (answer, ahead) = tokio::join!(publish, read_ahead);
        let answer = answer.inspect_err(|_| spans::record_error(&span, "publish_failed"));
        if answer.is_ok() {
            self.last_bus_answer = self.status.clock().instant();
        }
        match answer {
            Ok(RangeOutcome::Published(ids)) => {
                self.record = publish_range.end();
                self.status.record_published(&range, ids);
                self.next_range = ahead;
                Ok(PublishStep::Published)
            }
            Ok(RangeOutcome::Moved(record)) => self.follow_bus(record).await,
            Ok(RangeOutcome::Lost) => self.begin(store_id).await,
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

    /// Continues from the record of the bus; stops if the store is behind it.
    async fn follow_bus(&mut self, record: PublishedPosition) -> Result<PublishStep, BoxError> {
        if let Some(stopped) = self.check_store_behind(record).await? {
            return Ok(stopped);
        }
        self.record = record;
        self.next_range = None;
        self.status.set_position(record.position);
        Ok(PublishStep::Published)
    }

    /// Begins behind the store's own checkpoint: the bus never had a record of the store, or has lost its data.
    ///
    /// Invariant: the checkpoint is never ahead of what the bus confirmed, so that no event is left out.
    async fn begin(&mut self, store_id: Uuid) -> Result<PublishStep, BoxError> {
        let destination = self.destination();
        if !self.is_stream_shared
            && let Some(other) = self.target.other_store(store_id).await?
        {
            let error = RelayError::OtherStore { destination: destination.clone(), own: store_id, other };
            return Ok(PublishStep::Stopped(error));
        }
        let saved = self.store.load_checkpoint(&relay_to(destination)).await?.unwrap_or_default();
        // a store that was restored may have a checkpoint that is ahead of it
        let position = saved.min(self.store.head().await?);
        let record = PublishedPosition { position, event_id: None };
        let record = self.target.set_position(store_id, None, record).await?;
        let has_lost = record.position > Position::START && self.target.outlives_process();
        if has_lost {
            tracing::error!(
                %destination, position = %record.position,
                "the bus has lost its data: it holds no event up to this position, and the relay goes on behind it; \
                 to publish earlier events again, run `eventbus relay republish --after <position>`"
            );
        } else {
            tracing::info!(%destination, after = %record.position, "the relay begins");
        }
        let step = self.follow_bus(record).await?;
        if has_lost {
            self.status.set_lost_through(record.position);
        }
        Ok(step)
    }

    /// Returns the stop, and saves the halt checkpoint, if the store is an older copy than the one published last: it
    /// would assign published positions again, to new events.
    async fn check_store_behind(&mut self, record: PublishedPosition) -> Result<Option<PublishStep>, BoxError> {
        let published = record.position;
        let is_behind = match record.event_id {
            Some(event_id) => !holds_event(self.store, published, event_id).await?,
            None => published > self.store.head().await? && is_beyond_end(self.store, published).await?,
        };
        self.restore_watch.mark_checked();
        // events that were read before the check may be of the former copy
        self.next_range = None;
        self.reader.close();
        if !is_behind {
            return Ok(None);
        }
        self.store.save_checkpoint(&halt_checkpoint_name(self.destination()), published).await?;
        self.store_behind(published).await.map(Some)
    }

    async fn store_behind(&mut self, published: Position) -> Result<PublishStep, BoxError> {
        let destination = self.destination().clone();
        let fork = find_fork(self.store, &destination, self.target).await?;
        Ok(PublishStep::Stopped(RelayError::StoreBehindBus { destination, published, fork }))
    }

    fn destination(&self) -> &'a Name {
        self.status.destination()
    }
}
