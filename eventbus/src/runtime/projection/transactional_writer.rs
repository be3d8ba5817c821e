//! Handling events in the store's transaction: rows and checkpoint commit together.
//!
//! Invariant: the transaction that holds the rows also moves the checkpoint, under the lease, and only from the
//! position that this owner knows. So each event takes effect once, and the store refuses an owner that was paused, or
//! whose commit had an unknown outcome, before it commits any row.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use tokio::time::Instant;

use super::{
    ProjectionError,
    context::RunnerContext,
    event_handling::{EventRetry, FeedStep, feed_delivery, run_watched},
};
use crate::{
    delivery::activity::Activity,
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{
        EventStore, FeedFilter, ReadError, RecordStream, Shadow, Transaction, Transactions, delivery::HandlerError,
    },
    runtime::{
        definition::{Projection, ProjectionDefinition},
        handler_inbox::classify_error,
        held_lease::HeldLease,
    },
    support::{PAGE_BYTES, read_around},
};

/// Most events of a transaction; fewer if they have [`PAGE_BYTES`].
const TRANSACTION_EVENTS_MAX: usize = 256;
/// The time after which a transaction takes no further event.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(1);
/// Transactions that fit into a lease: rows that are not committed when the lease is lost were written in vain.
const TRANSACTIONS_PER_LEASE: u32 = 8;

/// Interval at which the writer saves a checkpoint past events that wrote no rows.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Writes rows of a projection, live or to copies of its tables.
pub(super) struct TransactionalWriter<'a, P> {
    projection: &'a P,
    transactions: &'a dyn Transactions,
    /// `None`: the live tables.
    shadow: Option<&'a Shadow>,
    held_lease: &'a HeldLease,
    context: &'a RunnerContext,
    activity: &'a Arc<Activity>,
    /// The positions that the projection skips.
    skips: Arc<[Position]>,
    /// The rows include all events up to this position.
    position: Position,
    /// The checkpoint in the store; behind the position if the last events are of other types.
    saved_checkpoint: Position,
    saved_at: Instant,
    /// Set once the tables were found. A rebuild begins with it set: the store made its copies from the tables.
    has_tables: bool,
}

/// A batch of consecutive events of a feed.
struct FeedBatch {
    events: Vec<RecordedEvent>,
    /// This batch and those before it hold all events of the feed up to this position.
    through: Position,
    is_last: bool,
    /// The error of the feed behind them.
    error: Option<ReadError>,
}

/// Outcome of one transaction.
enum TransactionOutcome {
    /// The rows of so many events are committed.
    Committed(usize),
    /// No rows are committed: the event at this index could not be handled.
    EventFailed(usize, HandlerError),
    MissingTable(ProjectionError),
    /// A different process may hold the lease, or the checkpoint has moved: also by an earlier commit of this writer
    /// whose outcome was unknown. No rows are committed.
    LeaseLost,
}

impl<'a, P: Projection> TransactionalWriter<'a, P> {
    /// Makes a writer that begins at the checkpoint `saved`.
    pub(super) fn new(
        projection: &'a P,
        transactions: &'a dyn Transactions,
        shadow: Option<&'a Shadow>,
        held_lease: &'a HeldLease,
        context: &'a RunnerContext,
        activity: &'a Arc<Activity>,
        saved: Position,
    ) -> Self {
        let (saved_at, has_tables, position) = (context.clock.instant(), shadow.is_some(), saved);
        Self {
            projection,
            transactions,
            shadow,
            held_lease,
            context,
            activity,
            skips: Arc::default(),
            position,
            saved_checkpoint: saved,
            saved_at,
            has_tables,
        }
    }

    /// Skips events at these positions.
    pub(super) fn with_skips(mut self, skips: Arc<[Position]>) -> Self {
        self.skips = skips;
        self
    }

    /// Returns the position up to which the rows include all events.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// Writes the rows of all events up to `target`, which was the head of the store; calls `report` after each commit.
    pub(super) async fn write_up_to(
        &mut self,
        target: Position,
        store: &dyn EventStore,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<FeedStep, BoxError> {
        let ended = self.held_lease.ended();
        let filter = FeedFilter::from(P::definition().events);
        let mut feed = read_around(store, self.position, target, &filter, &self.skips);
        let Some(first) = ended.run_until_cancelled(next_batch(&mut feed, target)).await else {
            return Ok(FeedStep::Interrupted);
        };
        let mut batch = first?;
        loop {
            let is_last = batch.is_last;
            // reads the next batch while it writes this one
            let ahead =
                async { if is_last { None } else { ended.run_until_cancelled(next_batch(&mut feed, target)).await } };
            let (written, next) = tokio::join!(self.write_batch(&batch, report), ahead);
            match (written?, next.transpose()?) {
                (FeedStep::Advanced, Some(next)) => batch = next,
                (FeedStep::Advanced, None) if is_last => {
                    return batch.error.map_or(Ok(FeedStep::Advanced), |error| Err(error.into()));
                }
                (FeedStep::Advanced, None) => return Ok(FeedStep::Interrupted),
                (written, _) => return Ok(written),
            }
        }
    }

    /// Writes a batch in as few transactions as it takes.
    ///
    /// A failed event is retried alone, after those before it are committed.
    async fn write_batch(
        &mut self,
        batch: &FeedBatch,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<FeedStep, BoxError> {
        let mut rest = &*batch.events;
        let mut retry: Option<EventRetry> = None;
        while let Some(first) = rest.first() {
            if self.held_lease.ended().is_cancelled() {
                return Ok(FeedStep::Interrupted);
            }
            let due_retry = retry.take_if(|retry| Some(retry.position) == first.position());
            let (count, attempts) = match (due_retry, &retry) {
                (Some(retry), _) if retry.is_final() => {
                    return Ok(FeedStep::EventFailed(first.clone(), retry.error));
                }
                (Some(retry), _) => {
                    retry.log_retry(P::definition().name);
                    let pause = self.context.clock.sleep(retry.delay());
                    if self.held_lease.ended().run_until_cancelled(pause).await.is_none() {
                        return Ok(FeedStep::Interrupted);
                    }
                    (1, retry.attempts)
                }
                (None, Some(retry)) => (rest.partition_point(|event| event.position() < Some(retry.position)), 0),
                (None, None) => (rest.len(), 0),
            };
            let through = if count == rest.len() { batch.through } else { position_of(&rest[count - 1]) };
            match self.try_transaction(&rest[..count], through, attempts + 1).await? {
                TransactionOutcome::Committed(handled) => {
                    rest = &rest[handled..];
                    report(handled as u64, self.position);
                }
                TransactionOutcome::EventFailed(index, error) => {
                    let attempts = if index == 0 { attempts + 1 } else { 1 };
                    retry = Some(EventRetry { position: position_of(&rest[index]), attempts, error });
                }
                TransactionOutcome::MissingTable(error) => return Ok(FeedStep::MissingTable(error)),
                TransactionOutcome::LeaseLost => return Ok(FeedStep::LeaseLost),
            }
        }
        if self.position < batch.through {
            self.position = batch.through;
            report(0, self.position);
        }
        Ok(FeedStep::Advanced)
    }

    /// Handles events in one transaction, which ends early if it takes long.
    async fn try_transaction(
        &mut self,
        events: &[RecordedEvent],
        through: Position,
        attempt: u32,
    ) -> Result<TransactionOutcome, BoxError> {
        let definition = P::definition();
        let mut transaction = self.begin_transaction().await?;
        let longest = TRANSACTION_TIME_MAX.min(self.held_lease.ttl() / TRANSACTIONS_PER_LEASE);
        let began = self.context.clock.instant();
        let mut handled = 0;
        for record in events {
            let delivery = feed_delivery(&definition, record.clone(), &self.context.state).with_attempt(attempt);
            let projected = self.projection.project(&delivery, Some(transaction.as_any_mut()));
            if let Err(error) = run_watched(&definition, self.activity, &delivery, projected, &self.context.clock).await
            {
                let is_late = transaction.is_late();
                drop(transaction);
                return self.confirm_ownership(handled, error, is_late).await;
            }
            handled += 1;
            if self.context.clock.elapsed(began) >= longest || self.held_lease.ended().is_cancelled() {
                break;
            }
        }
        if let Some(error) = self.find_missing_table(&mut *transaction).await? {
            return Ok(TransactionOutcome::MissingTable(error));
        }
        let to = if handled == events.len() { through } else { position_of(&events[handled - 1]) };
        let is_late = transaction.is_late();
        match self.commit_at(transaction, to).await {
            Ok(true) => Ok(TransactionOutcome::Committed(handled)),
            Ok(false) => Ok(TransactionOutcome::LeaseLost),
            // a constraint that only the commit checks does not tell which event broke it: the writer retries the first
            // alone, then the rest
            Err(error) => self.confirm_ownership(0, HandlerError::from(error), is_late).await,
        }
    }

    /// Finds a table or column that the attribute names and the store does not have. Called after methods have run, as
    /// they may create tables.
    async fn find_missing_table(
        &mut self,
        transaction: &mut dyn Transaction,
    ) -> Result<Option<ProjectionError>, BoxError> {
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

    /// Decides whether a failure is the event's: a fault of the server, or one after the lease was lost, is not. Checks
    /// the lease by a move of the checkpoint to where it is, in a transaction that it drops.
    async fn confirm_ownership(
        &self,
        index: usize,
        error: HandlerError,
        is_late: bool,
    ) -> Result<TransactionOutcome, BoxError> {
        // the store ended a late transaction for its age: no fault of the server
        let error = if is_late { error } else { classify_error(error, self.transactions) };
        if error.server_fault().is_some() {
            return Err(error.into_source());
        }
        let mut transaction = self.begin_transaction().await?;
        let is_owner =
            transaction.advance(self.held_lease.lease(), self.saved_checkpoint, self.saved_checkpoint).await?;
        Ok(if is_owner { TransactionOutcome::EventFailed(index, error) } else { TransactionOutcome::LeaseLost })
    }

    /// Saves the position if that is due, or `is_end`. Returns `false` if the lease is lost.
    pub(super) async fn save_checkpoint(&mut self, is_end: bool) -> Result<bool, BoxError> {
        let is_due = is_end || self.context.clock.elapsed(self.saved_at) >= CHECKPOINT_INTERVAL;
        if self.saved_checkpoint == self.position || !is_due {
            return Ok(true);
        }
        let transaction = self.begin_transaction().await?;
        self.commit_at(transaction, self.position).await
    }

    async fn begin_transaction(&self) -> Result<Box<dyn Transaction>, BoxError> {
        match self.shadow {
            Some(shadow) => self.transactions.begin_in(shadow).await,
            None => self.transactions.begin().await,
        }
    }

    /// Moves the checkpoint and commits. Returns `false` if the lease is lost; then no rows are committed.
    async fn commit_at(&mut self, mut transaction: Box<dyn Transaction>, to: Position) -> Result<bool, BoxError> {
        if !transaction.advance(self.held_lease.lease(), self.saved_checkpoint, to).await? {
            return Ok(false);
        }
        transaction.commit().await?;
        (self.position, self.saved_checkpoint, self.saved_at) = (to, to, self.context.clock.instant());
        Ok(true)
    }
}

/// Reads the next events of a feed that ends at `target`; may search for long until it finds one.
async fn next_batch(feed: &mut RecordStream<'_>, target: Position) -> Result<FeedBatch, ReadError> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut through = Position::START;
    loop {
        let record = match feed.try_next().await {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) if events.is_empty() => return Err(error),
            Err(error) => return Ok(FeedBatch { events, through, is_last: true, error: Some(error) }),
        };
        bytes += record.payload().len();
        through = position_of(&record);
        events.push(record);
        if events.len() == TRANSACTION_EVENTS_MAX || bytes >= PAGE_BYTES {
            return Ok(FeedBatch { events, through, is_last: false, error: None });
        }
    }
    Ok(FeedBatch { events, through: target, is_last: true, error: None })
}

/// Returns the position of an event of a feed, which has one.
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
        assert!(batch.error.is_some(), "the writer returns it once they are written");
        assert!(next_batch(&mut feed, Position::new(9)).await.is_err());
    }
}
