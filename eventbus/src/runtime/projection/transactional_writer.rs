//! Handling events in the store's transaction: rows and checkpoint commit together.
//!
//! Invariant: the transaction that holds the rows also moves the checkpoint, under the lease, and only from the
//! position that this owner knows. So each event takes effect once, and the store refuses an owner that was paused, or
//! whose commit had an unknown outcome, before it commits any row.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ProjectionError,
    context::RunnerContext,
    event_handling::{EventRetry, FeedStop, feed_delivery},
    inner::ProjectionInner,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{EventStore, ReadError, RecordStream, Shadow, Transaction, Transactions, delivery::HandlerError},
    runtime::{
        definition::{Projection, ProjectionDefinition},
        handler_inbox::classify_error,
        held_lease::HeldLease,
    },
    support::{BatchEnd, FeedBatch, PAGE_BYTES, read_around},
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
    inner: &'a ProjectionInner<P>,
    transactions: &'a dyn Transactions,
    /// `None`: the live tables.
    shadow: Option<&'a Shadow>,
    held_lease: &'a HeldLease,
    context: &'a RunnerContext,
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

/// Outcome of one transaction.
enum TransactionOutcome {
    /// The rows of so many events are committed.
    Committed(usize),
    /// No rows are committed: the event at this index could not be handled.
    EventFailed(usize, HandlerError),
}

impl<'a, P: Projection> TransactionalWriter<'a, P> {
    /// Makes a writer that begins at the checkpoint `saved`.
    pub(super) fn new(
        inner: &'a ProjectionInner<P>,
        transactions: &'a dyn Transactions,
        shadow: Option<&'a Shadow>,
        held_lease: &'a HeldLease,
        context: &'a RunnerContext,
        skips: Arc<[Position]>,
        saved: Position,
    ) -> Self {
        let (position, saved_checkpoint, saved_at) = (saved, saved, context.clock.instant());
        let has_tables = shadow.is_some();
        Self {
            inner,
            transactions,
            shadow,
            held_lease,
            context,
            skips,
            position,
            saved_checkpoint,
            saved_at,
            has_tables,
        }
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
    ) -> Result<(), FeedStop> {
        let ended = self.held_lease.ended();
        let mut feed = read_around(store, self.position, target, &P::definition().events.into(), &self.skips);
        let mut next = ended.run_until_cancelled(next_batch(&mut feed)).await;
        loop {
            let batch = next.ok_or(FeedStop::Interrupted)??;
            // reads the next batch while it writes this one
            let ahead = async {
                match batch.end {
                    BatchEnd::Full => ended.run_until_cancelled(next_batch(&mut feed)).await,
                    BatchEnd::EndOfFeed | BatchEnd::Failed(_) => None,
                }
            };
            let (written, ahead) = tokio::join!(self.write_batch(&batch, batch.through(target), report), ahead);
            written?;
            match batch.end {
                BatchEnd::Full => next = ahead,
                BatchEnd::EndOfFeed => return Ok(()),
                BatchEnd::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a batch in as few transactions as it takes.
    ///
    /// A failed event is retried alone, after those before it are committed.
    async fn write_batch(
        &mut self,
        batch: &FeedBatch,
        batch_end: Position,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<(), FeedStop> {
        let mut rest = &*batch.events;
        let mut retry: Option<EventRetry> = None;
        while let Some(first) = rest.first() {
            if self.held_lease.ended().is_cancelled() {
                return Err(FeedStop::Interrupted);
            }
            let due_retry = retry.take_if(|retry| Some(retry.position) == first.position());
            let (count, attempts) = match (due_retry, &retry) {
                (Some(retry), _) if retry.is_final() => {
                    // a permanent error is the event's, whatever the tables are
                    if !retry.error.is_permanent() {
                        self.check_tables_after_failure().await?;
                    }
                    return Err(FeedStop::EventFailed(first.clone(), retry.error));
                }
                (Some(retry), _) => {
                    retry.log_retry(P::definition().name);
                    let pause = self.context.clock.sleep(retry.delay());
                    if self.held_lease.ended().run_until_cancelled(pause).await.is_none() {
                        return Err(FeedStop::Interrupted);
                    }
                    (1, retry.attempts)
                }
                (None, Some(retry)) => (rest.partition_point(|event| event.position() < Some(retry.position)), 0),
                (None, None) => (rest.len(), 0),
            };
            let through = if count == rest.len() { batch_end } else { position_of(&rest[count - 1]) };
            match self.try_transaction(&rest[..count], through, attempts + 1).await? {
                TransactionOutcome::Committed(handled) => {
                    rest = &rest[handled..];
                    report(handled as u64, self.position);
                }
                TransactionOutcome::EventFailed(index, error) => {
                    let attempts = if index == 0 { attempts + 1 } else { 1 };
                    retry = Some(EventRetry { position: position_of(&rest[index]), attempts, error });
                }
            }
        }
        if self.position < batch_end {
            self.position = batch_end;
            report(0, self.position);
        }
        Ok(())
    }

    /// Handles events in one transaction, which ends early if it takes long.
    async fn try_transaction(
        &mut self,
        events: &[RecordedEvent],
        through: Position,
        attempt: u32,
    ) -> Result<TransactionOutcome, FeedStop> {
        let definition = P::definition();
        let mut transaction = self.begin_transaction().await?;
        let longest = TRANSACTION_TIME_MAX.min(self.held_lease.ttl() / TRANSACTIONS_PER_LEASE);
        let began = self.context.clock.instant();
        let mut handled = 0;
        for record in events {
            let delivery = feed_delivery(&definition, record.clone(), &self.context.state).with_attempt(attempt);
            if let Err(error) = self.inner.write_rows(&delivery, &mut *transaction).await {
                let is_late = transaction.is_late();
                drop(transaction);
                return self.confirm_ownership(handled, error, is_late).await;
            }
            handled += 1;
            if self.context.clock.elapsed(began) >= longest || self.held_lease.ended().is_cancelled() {
                break;
            }
        }
        self.check_tables(&mut *transaction).await?;
        let to = if handled == events.len() { through } else { position_of(&events[handled - 1]) };
        let is_late = transaction.is_late();
        match self.commit_at(transaction, to).await {
            Ok(()) => Ok(TransactionOutcome::Committed(handled)),
            // a constraint that only the commit checks does not tell which event broke it: the writer retries the first
            // alone, then the rest
            Err(FeedStop::Store(error)) => self.confirm_ownership(0, HandlerError::from(error), is_late).await,
            Err(stop) => Err(stop),
        }
    }

    /// Checks that the store has the tables and the column that the attribute names. Called after methods have run, as
    /// they may create tables.
    async fn check_tables(&mut self, transaction: &mut dyn Transaction) -> Result<(), FeedStop> {
        if self.has_tables {
            return Ok(());
        }
        let ProjectionDefinition { name, tables, key, .. } = P::definition();
        for &table in tables {
            if !transaction.has_table(table, None).await? {
                return Err(FeedStop::MissingTable(ProjectionError::NoTable { name, table }));
            }
            if let Some(column) = key
                && !transaction.has_table(table, Some(column)).await?
            {
                return Err(FeedStop::MissingTable(ProjectionError::NoColumn { name, table, column }));
            }
        }
        self.has_tables = true;
        Ok(())
    }

    /// Checks the tables after an event kept failing, as a missing one may be why. Its own transactions are rolled back,
    /// and those of the events before it are committed.
    async fn check_tables_after_failure(&mut self) -> Result<(), FeedStop> {
        if self.has_tables {
            return Ok(());
        }
        let mut transaction = self.begin_transaction().await?;
        self.check_tables(&mut *transaction).await
    }

    /// Decides whether a failure is the event's: a fault of the server, or one after the lease was lost, is not. Checks
    /// the lease by a move of the checkpoint to where it is, in a transaction that it drops.
    async fn confirm_ownership(
        &self,
        index: usize,
        error: HandlerError,
        is_late: bool,
    ) -> Result<TransactionOutcome, FeedStop> {
        // the store ended a late transaction for its age: no fault of the server
        let error = if is_late { error } else { classify_error(error, self.transactions) };
        if error.server_fault().is_some() {
            return Err(FeedStop::Store(error.into_source()));
        }
        let mut transaction = self.begin_transaction().await?;
        let is_owner =
            transaction.advance(self.held_lease.lease(), self.saved_checkpoint, self.saved_checkpoint).await?;
        if is_owner { Ok(TransactionOutcome::EventFailed(index, error)) } else { Err(FeedStop::LeaseLost) }
    }

    /// Saves the position if that is due, or `is_end`.
    pub(super) async fn save_checkpoint(&mut self, is_end: bool) -> Result<(), FeedStop> {
        let is_due = is_end || self.context.clock.elapsed(self.saved_at) >= CHECKPOINT_INTERVAL;
        if self.saved_checkpoint == self.position || !is_due {
            return Ok(());
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

    /// Moves the checkpoint and commits; if the lease is lost, no rows are committed.
    async fn commit_at(&mut self, mut transaction: Box<dyn Transaction>, to: Position) -> Result<(), FeedStop> {
        if !transaction.advance(self.held_lease.lease(), self.saved_checkpoint, to).await? {
            return Err(FeedStop::LeaseLost);
        }
        transaction.commit().await?;
        (self.position, self.saved_checkpoint, self.saved_at) = (to, to, self.context.clock.instant());
        Ok(())
    }
}

async fn next_batch(feed: &mut RecordStream<'_>) -> Result<FeedBatch, ReadError> {
    FeedBatch::read(feed, TRANSACTION_EVENTS_MAX, PAGE_BYTES).await
}

/// Returns the position of an event of a feed, which has one.
fn position_of(record: &RecordedEvent) -> Position {
    record.position().unwrap_or_default()
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
        let batch = next_batch(&mut feed).await.unwrap();
        assert_eq!((batch.events.len(), batch.through(Position::new(9))), (2, Position::new(2)));
        assert!(matches!(batch.end, BatchEnd::Failed(_)), "the writer returns it once they are written");
        assert!(next_batch(&mut feed).await.is_err());
    }
}
