//! Handling events in the store's transaction: rows and checkpoint commit together.
//!
//! Keep: the transaction that holds the rows also moves the checkpoint, under the lease and from where this owner knows it
//! to be. So nothing is handled twice in effect, and an owner that was paused, or whose commit had an unknown outcome,
//! is refused before it writes anything.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio::time::Instant;

use super::{
    ProjectionError,
    feeding::{feed_delivery, watched},
    runner::RunWith,
    trial::Trial,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{
        EventStore, FeedFilter, HandlerError, PAGE_BYTES, ReadError, RecordStream, Shadow, Transaction, Transactions,
        activity::Activity, read_around,
    },
    runtime::{
        definition::{Projection, ProjectionDefinition},
        effect::judged,
        tenure::Tenure,
    },
};

/// A transaction holds at most so many events, or [`PAGE_BYTES`] of them, and ends after about this time, or after this part
/// of the lease: what is not committed when the role passes was done for nothing.
const MAX_EVENTS: usize = 256;
const LONGEST: Duration = Duration::from_secs(1);
const PART_OF_LEASE: u32 = 8;

/// A checkpoint that no rows go with is saved only now and then.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What came of writing.
pub(super) enum Written {
    /// Everything is written.
    All,
    /// The work was to end; what is written is committed.
    Ended,
    /// Somebody else has the role, or moved the checkpoint.
    Lost,
    /// An event could not be handled; what was before it is committed.
    Stopped(RecordedEvent, HandlerError),
    /// The attribute names what the store does not have.
    Misnamed(ProjectionError),
}

/// Writes rows of a projection, live or to copies of its tables.
pub(super) struct Writer<'a, P> {
    pub(super) projection: &'a P,
    pub(super) transactions: &'a dyn Transactions,
    /// `None`: the live tables.
    pub(super) shadow: Option<&'a Shadow>,
    pub(super) tenure: &'a Tenure,
    with: &'a RunWith,
    activity: &'a Arc<Activity>,
    /// The positions that are skipped.
    skips: Arc<[Position]>,
    /// Everything up to here is in the rows.
    position: Position,
    /// The checkpoint in the store; behind the position where the last events are of other types.
    saved: Position,
    saved_at: Instant,
    /// Whether the tables were found; copies have those that were copied.
    has_tables: bool,
}

/// Events that follow each other in a feed, and the position up to which they are everything.
struct Batch {
    events: Vec<RecordedEvent>,
    through: Position,
    is_last: bool,
    /// What keeps the feed from being read behind them.
    error: Option<ReadError>,
}

/// What came of one transaction.
enum Attempted {
    /// So many events are committed.
    Committed(usize),
    /// Nothing is, for this event could not be handled.
    Failed(usize, HandlerError),
    Misnamed(ProjectionError),
    Lost,
}

impl<'a, P: Projection> Writer<'a, P> {
    /// Begins where the checkpoint is.
    pub(super) fn new(
        projection: &'a P,
        transactions: &'a dyn Transactions,
        shadow: Option<&'a Shadow>,
        tenure: &'a Tenure,
        with: &'a RunWith,
        activity: &'a Arc<Activity>,
        saved: Position,
    ) -> Self {
        let (saved_at, has_tables, position) = (with.clock.instant(), shadow.is_some(), saved);
        Self {
            projection,
            transactions,
            shadow,
            tenure,
            with,
            activity,
            skips: Arc::default(),
            position,
            saved,
            saved_at,
            has_tables,
        }
    }

    /// Skips events at these positions.
    pub(super) fn around(mut self, skips: Arc<[Position]>) -> Self {
        self.skips = skips;
        self
    }

    /// Everything up to here is in the rows.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// Writes everything up to `target`, which was the head of the store; `report` is told what is committed.
    pub(super) async fn write_up_to(
        &mut self,
        target: Position,
        store: &dyn EventStore,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<Written, BoxError> {
        let over = self.tenure.over();
        let filter = FeedFilter::from(P::definition().events);
        let mut feed = read_around(store, self.position, target, &filter, &self.skips);
        let Some(first) = over.run_until_cancelled(next_batch(&mut feed, target)).await else {
            return Ok(Written::Ended);
        };
        let mut batch = first?;
        loop {
            let is_last = batch.is_last;
            let ahead =
                async { if is_last { None } else { over.run_until_cancelled(next_batch(&mut feed, target)).await } };
            let (written, next) = tokio::join!(self.write(&batch, report), ahead);
            match (written?, next.transpose()?) {
                (Written::All, Some(next)) => batch = next,
                (Written::All, None) if is_last => {
                    return batch.error.map_or(Ok(Written::All), |error| Err(error.into()));
                }
                (Written::All, None) => return Ok(Written::Ended),
                (written, _) => return Ok(written),
            }
        }
    }

    /// Writes a batch in as few transactions as it takes.
    ///
    /// An event that fails is tried again alone, after those before it are committed.
    async fn write(
        &mut self,
        batch: &Batch,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<Written, BoxError> {
        let mut rest = &*batch.events;
        let mut trial: Option<Trial> = None;
        while let Some(first) = rest.first() {
            if self.tenure.over().is_cancelled() {
                return Ok(Written::Ended);
            }
            let alone = trial.take_if(|trial| Some(trial.position) == first.position());
            let (count, attempts) = match (alone, &trial) {
                (Some(trial), _) if trial.is_final() => return Ok(Written::Stopped(first.clone(), trial.error)),
                (Some(trial), _) => {
                    trial.log(P::definition().name);
                    let pause = self.with.clock.sleep(trial.delay());
                    if self.tenure.over().run_until_cancelled(pause).await.is_none() {
                        return Ok(Written::Ended);
                    }
                    (1, trial.attempts)
                }
                (None, Some(trial)) => (rest.partition_point(|event| event.position() < Some(trial.position)), 0),
                (None, None) => (rest.len(), 0),
            };
            let through = if count == rest.len() { batch.through } else { position_of(&rest[count - 1]) };
            match self.attempt(&rest[..count], through, attempts + 1).await? {
                Attempted::Committed(handled) => {
                    rest = &rest[handled..];
                    report(handled as u64, self.position);
                }
                Attempted::Failed(index, error) => {
                    let attempts = if index == 0 { attempts + 1 } else { 1 };
                    trial = Some(Trial { position: position_of(&rest[index]), attempts, error });
                }
                Attempted::Misnamed(error) => return Ok(Written::Misnamed(error)),
                Attempted::Lost => return Ok(Written::Lost),
            }
        }
        if self.position < batch.through {
            self.position = batch.through;
            report(0, self.position);
        }
        Ok(Written::All)
    }

    /// Handles events in one transaction, which ends early if it takes long.
    async fn attempt(
        &mut self,
        events: &[RecordedEvent],
        through: Position,
        attempt: u32,
    ) -> Result<Attempted, BoxError> {
        let definition = P::definition();
        let mut transaction = self.begin().await?;
        let longest = LONGEST.min(self.tenure.ttl() / PART_OF_LEASE);
        let began = self.with.clock.instant();
        let mut handled = 0;
        for record in events {
            let delivery = feed_delivery(&definition, record.clone(), &self.with.state).with_attempt(attempt);
            let projected = self.projection.project(&delivery, Some(transaction.as_any_mut()));
            if let Err(error) = watched(&definition, self.activity, &delivery, projected, &self.with.clock).await {
                let is_late = transaction.is_late();
                drop(transaction);
                return self.blame(handled, error, is_late).await;
            }
            handled += 1;
            if self.with.clock.elapsed(began) >= longest || self.tenure.over().is_cancelled() {
                break;
            }
        }
        if let Some(error) = self.misnamed(&mut *transaction).await? {
            return Ok(Attempted::Misnamed(error));
        }
        let to = if handled == events.len() { through } else { position_of(&events[handled - 1]) };
        let is_late = transaction.is_late();
        match self.commit(transaction, to).await {
            Ok(true) => Ok(Attempted::Committed(handled)),
            Ok(false) => Ok(Attempted::Lost),
            // a constraint that only the commit checks does not tell which event broke it
            Err(error) => self.blame(0, HandlerError::from(error), is_late).await,
        }
    }

    /// What the attribute names and the store does not have. It is asked when methods have run: they may make tables.
    async fn misnamed(&mut self, transaction: &mut dyn Transaction) -> Result<Option<ProjectionError>, BoxError> {
        if self.has_tables {
            return Ok(None);
        }
        let ProjectionDefinition { name, tables, key, .. } = P::definition();
        for &table in tables {
            if !transaction.has_table(table, None).await? {
                return Ok(Some(ProjectionError::NoTable { name, table }));
            }
            if let Some(column) = key
                && !transaction.has_table(table, Some(column)).await?
            {
                return Ok(Some(ProjectionError::NoColumn { name, table, column }));
            }
        }
        self.has_tables = true;
        Ok(None)
    }

    /// A failure that is a fault of the server, or came after the role has passed, says nothing about the event.
    async fn blame(&self, index: usize, error: HandlerError, is_late: bool) -> Result<Attempted, BoxError> {
        let error = if is_late { error } else { judged(error, self.transactions) };
        if error.server_fault().is_some() {
            return Err(error.into_source());
        }
        let mut transaction = self.begin().await?;
        let is_owner = transaction.advance(self.tenure.lease(), self.saved, self.saved).await?;
        Ok(if is_owner { Attempted::Failed(index, error) } else { Attempted::Lost })
    }

    /// Saves the position if that is due, or at the `end`. False: the role is lost.
    pub(super) async fn save(&mut self, is_end: bool) -> Result<bool, BoxError> {
        let is_due = is_end || self.with.clock.elapsed(self.saved_at) >= SAVE_EVERY;
        if self.saved == self.position || !is_due {
            return Ok(true);
        }
        let transaction = self.begin().await?;
        self.commit(transaction, self.position).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        match self.shadow {
            Some(shadow) => self.transactions.begin_in(shadow).await,
            None => self.transactions.begin().await,
        }
    }

    /// Moves the checkpoint and commits. False: the role is lost, and nothing is written.
    async fn commit(&mut self, mut transaction: Box<dyn Transaction>, to: Position) -> Result<bool, BoxError> {
        if !transaction.advance(self.tenure.lease(), self.saved, to).await? {
            return Ok(false);
        }
        transaction.commit().await?;
        (self.position, self.saved, self.saved_at) = (to, to, self.with.clock.instant());
        Ok(true)
    }
}

/// The next events of a feed that ends at `target`; it may search for long until it finds one.
async fn next_batch(feed: &mut RecordStream<'_>, target: Position) -> Result<Batch, ReadError> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut through = Position::START;
    loop {
        let record = match feed.try_next().await {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) if events.is_empty() => return Err(error),
            Err(error) => return Ok(Batch { events, through, is_last: true, error: Some(error) }),
        };
        bytes += record.payload().len();
        through = position_of(&record);
        events.push(record);
        if events.len() == MAX_EVENTS || bytes >= PAGE_BYTES {
            return Ok(Batch { events, through, is_last: false, error: None });
        }
    }
    Ok(Batch { events, through: target, is_last: true, error: None })
}

/// Events of a feed have a position.
fn position_of(record: &RecordedEvent) -> Position {
    record.position().unwrap_or(Position::START)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Name, record::NewEvent, stream::StreamId};

    #[tokio::test]
    async fn what_was_read_before_an_error_is_written() {
        let event = |number: u64| {
            let stream = StreamId::parse("Order", "1").unwrap();
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
            Ok(event.recorded_as(stream, number.into(), Some(number.into())))
        };
        let damaged = || {
            Err(ReadError::Corrupt {
                place: "position 3".into(),
                position: Some(Position::new(3)),
                source: "damaged".into(),
            })
        };
        let mut feed: RecordStream<'_> =
            Box::pin(futures_util::stream::iter([event(1), event(2), damaged(), damaged()]));
        let batch = next_batch(&mut feed, Position::new(9)).await.unwrap();
        assert_eq!((batch.events.len(), batch.through, batch.is_last), (2, Position::new(2), true));
        assert!(batch.error.is_some(), "it is told when they are written");
        assert!(next_batch(&mut feed, Position::new(9)).await.is_err());
    }
}
