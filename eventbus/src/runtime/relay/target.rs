//! Publishing to a bus that keeps the position of the store beside its events.
//!
//! Keep: the answers of the bus are the truth. After any doubt the relay asks, and goes on from where the bus is.

use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Relay, RelayError,
    error::stopped_by,
    groups::{Begin, Groups, Look, adoption},
    range::{Range, Ranges},
    turn::{Publish, Step},
};
use crate::{
    domain::{error::BoxError, metadata::EventId, name::Name, stream::Position},
    port::{
        Adopted, Adoption, CheckpointError, EventStore, FeedFilter, Mark, PublishError, Publisher, RangeOutcome,
        ReadError, RelayTarget,
    },
};

/// How often the groups are looked after; and the bus asked while there is nothing to publish, so that a loss of its
/// data is noticed at rest too.
const LOOK: Duration = Duration::from_secs(1);

/// Everything: `Position` is at most this in any store.
const END: u64 = i64::MAX as u64;

/// Under this name the store remembers that it went back behind what was published, until somebody decides.
pub(super) fn halt_name(destination: &Name) -> Name {
    Name::prefixed("relay-halted:", destination)
}

/// How far a newer copy of the store was published, if somebody has to decide from where to go on.
pub(super) async fn halted(store: &dyn EventStore, destination: &Name) -> Result<Option<Position>, CheckpointError> {
    let halted = store.load_checkpoint(&halt_name(destination)).await?;
    Ok(halted.filter(|published| *published > Position::START))
}

/// Publishes ranges.
pub(super) struct ToTarget<'a> {
    relay: &'a Relay,
    store: &'a dyn EventStore,
    target: &'a dyn RelayTarget,
    epoch: u64,
    /// Known once it has begun.
    publisher: Option<Publisher>,
    ranges: Ranges<'a>,
    /// What is published next, where that is clear.
    next: Option<Range>,
    asked: Instant,
    looked: Instant,
    groups: Groups,
    /// Whether the store may be another copy than the one that was published: it is the first look, or something failed.
    is_doubtful: bool,
}

impl Publish for ToTarget<'_> {
    const SAVES_CHECKPOINT: bool = false;

    async fn step(&mut self) -> Result<Step, BoxError> {
        let step = match self.publisher {
            Some(publisher) => self.next_step(publisher).await,
            None => self.begin().await,
        };
        self.is_doubtful |= step.is_err();
        step
    }
}

impl<'a> ToTarget<'a> {
    pub(super) fn new(relay: &'a Relay, target: &'a dyn RelayTarget, epoch: u64) -> Self {
        let (store, now) = (&*relay.store, relay.board.clock().instant());
        Self {
            relay,
            store,
            target,
            epoch,
            publisher: None,
            ranges: Ranges::of(store).around_skipped(relay.bus.destination(), relay.board.clock()),
            next: None,
            asked: now,
            looked: now,
            groups: Groups::by(relay.board.clock().clone()),
            is_doubtful: true,
        }
    }

    async fn next_step(&mut self, publisher: Publisher) -> Result<Step, BoxError> {
        if self.is_doubtful
            && let Some(stopped) = self.went_back(publisher, self.relay.board.position()).await?
        {
            return Ok(stopped);
        }
        if let Some(step) = self.look_after_groups(publisher).await {
            return Ok(step);
        }
        let position = self.relay.board.position();
        let range = match self.next.take() {
            Some(range) => range,
            None => self.ranges.next(position).await?,
        };
        if range.is_ahead() || range.after != position {
            return self.publish(publisher, range).await;
        }
        if self.relay.board.clock().elapsed(self.asked) < LOOK {
            return Ok(Step::CaughtUp);
        }
        if self.store.head().await? < position
            && let Some(stopped) = self.went_back(publisher, position).await?
        {
            return Ok(stopped);
        }
        self.publish(publisher, range).await
    }

    /// Asks where the bus is, unless somebody has to decide first.
    async fn begin(&mut self) -> Result<Step, BoxError> {
        if let Some(published) = halted(self.store, self.destination()).await? {
            let newest = self.store.head().await?;
            return Ok(self.store_went_back(published, newest));
        }
        let publisher = Publisher { store: self.store.store_id().await?, epoch: self.epoch };
        let step = self.publish(publisher, Range::empty(Position::START)).await?;
        self.publisher = Some(publisher);
        // there may be something to publish, for all that is known
        Ok(if matches!(step, Step::CaughtUp) { Step::Done } else { step })
    }

    /// Publishes a range, and reads the next one meanwhile.
    async fn publish(&mut self, publisher: Publisher, range: Range) -> Result<Step, BoxError> {
        let ranges = &mut self.ranges;
        let read_ahead = async {
            // what cannot be read now fails when it is its turn
            if range.is_full { ranges.next(range.through).await.ok() } else { None }
        };
        let (answer, ahead) = tokio::join!(self.target.publish_range(publisher, range.as_port()), read_ahead);
        if answer.is_ok() {
            self.asked = self.relay.board.clock().instant();
        }
        match answer {
            Ok(RangeOutcome::Published(ids)) => {
                self.relay.board.published(&range, ids);
                self.next = ahead;
                Ok(if range.is_ahead() { Step::Done } else { Step::CaughtUp })
            }
            Ok(RangeOutcome::Moved(position)) => self.moved(publisher, position).await,
            Ok(RangeOutcome::Fenced) => Ok(Step::Fenced),
            Ok(RangeOutcome::Lost) => self.adopt(publisher).await,
            Err(error) => self.failed(range, error),
        }
    }

    fn failed(&mut self, mut range: Range, error: PublishError) -> Result<Step, BoxError> {
        let stopped = stopped_by(error, &range.events);
        if let Ok(RelayError::EventRefused { position, .. }) = stopped
            && range.end_before(position)
        {
            self.next = Some(range);
            return Ok(Step::Done);
        }
        stopped.map(Step::Stopped).map_err(|error| {
            // whether it was published is told by the answer to the same range
            self.next = Some(range);
            error.into()
        })
    }

    /// Somebody else brought the bus to `position`.
    async fn moved(&mut self, publisher: Publisher, position: Position) -> Result<Step, BoxError> {
        if let Some(stopped) = self.went_back(publisher, position).await? {
            return Ok(stopped);
        }
        Ok(self.go_on(position))
    }

    fn go_on(&mut self, position: Position) -> Step {
        self.next = None;
        self.relay.board.moved(position);
        Step::Done
    }

    /// The bus lost what was published, or never heard of the store.
    async fn adopt(&mut self, publisher: Publisher) -> Result<Step, BoxError> {
        let gives_to_one = self.relay.bus.backlogs().is_some();
        let Begin { floor, groups, fresh } = adoption(self.store, self.destination(), gives_to_one).await?;
        let adoption = Adoption { floor, groups: &groups, fresh: &fresh, shared: self.relay.options.shared };
        let adopted = self.target.adopt(publisher, adoption).await?;
        let destination = self.destination();
        match adopted {
            Adopted::At(Position::START) => {
                tracing::info!(%destination, groups = groups.len(), "everything that the store holds is published");
            }
            Adopted::At(position) => tracing::warn!(
                %destination, %position, groups = groups.len(),
                "the bus does not hold what this store published last: it is published again from here"
            ),
            _ => {}
        }
        self.set_to(publisher, adopted).await
    }

    /// Once a second. What fails is tried again a second later: publishing need not wait for it.
    async fn look_after_groups(&mut self, publisher: Publisher) -> Option<Step> {
        if self.relay.board.clock().elapsed(self.looked) < LOOK {
            return None;
        }
        self.looked = self.relay.board.clock().instant();
        let looked = self.look(publisher).await;
        self.groups.report(self.destination(), self.relay.board.position(), looked.as_ref().err());
        looked.unwrap_or_default()
    }

    async fn look(&mut self, publisher: Publisher) -> Result<Option<Step>, BoxError> {
        Ok(match self.groups.look(self.store, self.destination(), self.target, publisher).await? {
            Look::Fine => None,
            Look::Lost => Some(self.adopt(publisher).await?),
            Look::Hole(floor) => {
                // a group that was never known is promised nothing; the bus is told all the same that it was noted
                let floor = floor.unwrap_or(self.relay.board.position());
                let adopted = self.target.rewind(publisher, floor).await?;
                Some(self.set_to(publisher, adopted).await?)
            }
        })
    }

    async fn set_to(&mut self, publisher: Publisher, adopted: Adopted) -> Result<Step, BoxError> {
        match adopted {
            Adopted::At(position) => Ok(self.go_on(position)),
            Adopted::Moved(position) => self.moved(publisher, position).await,
            Adopted::Fenced => Ok(Step::Fenced),
            Adopted::OtherStore(other) => Ok(Step::Stopped(self.other_store(publisher.store, other))),
        }
    }

    /// Whether the store is an older copy than the one that was published last, so that what it appends now would pass for
    /// published. A part of the bus may be ahead of `published`, as somebody died half way through a range.
    async fn went_back(&mut self, publisher: Publisher, published: Position) -> Result<Option<Step>, BoxError> {
        let mut marks = self.target.marks(publisher).await?;
        marks.dedup();
        let newest = self.store.head().await?;
        let is_beyond = published > newest && is_beyond(self.store, published).await?;
        let mut foreign = is_beyond.then_some(published);
        for Mark { position, event_id } in marks {
            if let Some(event_id) = event_id
                && !holds(self.store, position, event_id).await?
            {
                foreign = foreign.max(Some(position));
            }
        }
        self.is_doubtful = false;
        let Some(published) = foreign else {
            return Ok(None);
        };
        self.store.save_checkpoint(&halt_name(self.destination()), published).await?;
        Ok(Some(self.store_went_back(published, newest)))
    }

    fn store_went_back(&self, published: Position, newest: Position) -> Step {
        Step::Stopped(RelayError::StoreWentBack { destination: self.destination().clone(), published, newest })
    }

    fn other_store(&self, own: Uuid, other: Uuid) -> RelayError {
        RelayError::OtherStore { destination: self.destination().clone(), own, other }
    }

    fn destination(&self) -> &'a Name {
        self.relay.board.destination()
    }
}

/// Whether a store holds this event at this position, as far as it can tell.
async fn holds(store: &dyn EventStore, position: Position, event_id: EventId) -> Result<bool, ReadError> {
    match store.read_all(before(position)).try_next().await? {
        Some(event) => Ok(event.position() == Some(position) && event.metadata().event_id() == event_id),
        // the end that is safe to read may be behind for a moment
        None => Ok(!is_beyond(store, position).await?),
    }
}

/// Whether a store holds nothing at or after a position.
async fn is_beyond(store: &dyn EventStore, position: Position) -> Result<bool, ReadError> {
    Ok(store.count_events(before(position), Position::new(END), &FeedFilter::all()).await? == 0)
}

fn before(position: Position) -> Position {
    Position::new(position.get().saturating_sub(1))
}
