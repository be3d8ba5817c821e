//! Handling events in the store's transaction: rows and checkpoint commit together.
//!
//! Invariant: the transaction that holds the rows also moves the checkpoint, under the lease, and only from the
//! position that this owner knows. So each event takes effect once, and the store refuses an owner that was paused, or
//! whose commit had an unknown outcome, before it commits any row.

use std::{ops::Range, time::Duration};

use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use super::{
    ProjectionError,
    context::{RunnerContext, projection_role},
    event_handling::{BATCH_EVENTS_MAX, FeedStop, count_of_next_call, feed_delivery},
    failure::{Failure, position_of},
    fed_projection::FedProjection,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{
        EventStore, ReadError, RecordStream, Shadow, Transaction, Transactions,
        delivery::{Delivery, HandlerError},
        feed_page::{BatchEnd, FeedBatch},
    },
    runtime::{
        definition::ProjectionDefinition, feed_poller::EndCheck, handler_inbox::classify_error, held_lease::HeldLease,
    },
    support::{
        PAGE_BYTES, read_around, read_batch,
        spans::{self, FeedRead},
    },
};

/// Most events of a transaction; fewer if they have [`PAGE_BYTES`].
const TRANSACTION_EVENTS_MAX: usize = 256;
/// The time after which a transaction takes no further event.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(1);
/// Transactions that fit into a lease. They are short, as the loss of the lease wastes the rows of an open one.
const TRANSACTIONS_PER_LEASE: u32 = 8;

/// Interval at which the writer saves a checkpoint past events that wrote no rows.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Writes rows of a projection, live or to copies of its tables.
pub(super) struct TransactionalWriter<'a> {
    inner: &'a dyn FedProjection,
    transactions: &'a dyn Transactions,
    /// `None`: the live tables.
    shadow: Option<&'a Shadow>,
    held_lease: &'a HeldLease,
    context: &'a RunnerContext,
    /// The rows include all events up to this position.
    position: Position,
    /// The checkpoint in the store; behind the position if the last events are of other types.
    saved_checkpoint: Position,
    saved_at: Instant,
    end_check: EndCheck,
    /// Set once the tables were found. A rebuild begins with it set: the store made its copies from the tables.
    has_tables: bool,
}

/// Outcome of one transaction.
enum TransactionOutcome {
    /// The rows of so many events are committed.
    Committed(usize),
    /// No rows are committed: these events could not be handled, as one of them or several together fail.
    Failed(Range<usize>, HandlerError),
}

impl<'a> TransactionalWriter<'a> {
    /// Makes a writer that begins at the checkpoint `saved`.
    pub(super) fn new(
        inner: &'a dyn FedProjection,
        transactions: &'a dyn Transactions,
        shadow: Option<&'a Shadow>,
        held_lease: &'a HeldLease,
        context: &'a RunnerContext,
        saved: Position,
    ) -> Self {
        Self {
            inner,
            transactions,
            shadow,
            held_lease,
            context,
            position: saved,
            saved_checkpoint: saved,
            saved_at: context.clock.instant(),
            end_check: EndCheck::new(&*context.store),
            has_tables: shadow.is_some(),
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
        let (ended, definition) = (self.held_lease.ended(), self.inner.definition());
        let events_max = if definition.has_batch_methods() { BATCH_EVENTS_MAX } else { TRANSACTION_EVENTS_MAX };
        let skips = self.inner.skips(store, &self.context.clock).await?;
        let mut feed = read_around(store, self.position, target, &definition.events.into(), &skips);
        let is_rebuild = self.shadow.is_some();
        let begin_read =
            || if is_rebuild { FeedRead::none() } else { FeedRead::begin(|| projection_role(definition.name)) };
        let mut next = ended.run_until_cancelled(next_batch(begin_read(), &mut feed, events_max)).await;
        loop {
            let batch = next.ok_or(FeedStop::Interrupted)??;
            let through = match batch.end {
                BatchEnd::EndOfFeed => {
                    self.end_check.passed(store, self.position.max(position_of(batch.events.last())), target)
                }
                _ => batch.through(target),
            };
            // reads the next batch while it writes this one
            let ahead = async {
                match batch.end {
                    BatchEnd::Full => ended.run_until_cancelled(next_batch(begin_read(), &mut feed, events_max)).await,
                    BatchEnd::EndOfFeed | BatchEnd::Failed(_) => None,
                }
            };
            let (written, ahead) = tokio::join!(self.write_batch(&batch, through, report), ahead);
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
    /// A failed event is retried alone, after those before it are committed. Among events that failed together, in a
    /// batch method or at the commit, smaller transactions find it.
    async fn write_batch(
        &mut self,
        batch: &FeedBatch,
        batch_end: Position,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<(), FeedStop> {
        let mut rest = &*batch.events;
        let mut failure: Option<Failure> = None;
        while let Some(first) = rest.first() {
            if self.held_lease.ended().is_cancelled() {
                return Err(FeedStop::Interrupted);
            }
            let (count, attempts) = match failure.as_ref().map(|failure| failure.count_of_next_transaction(rest)) {
                Some(0) => (1, self.wait_for_retry(first, failure.take()).await?),
                Some(count) => (count, 0),
                None => (rest.len(), 0),
            };
            let through = if count == rest.len() { batch_end } else { position_of(rest[..count].last()) };
            // the events of a rebuild are of traces that ended long ago
            let span =
                if self.shadow.is_some() { Span::none() } else { spans::project(self.inner.name(), &rest[..count]) };
            let written = self.try_transaction(&rest[..count], through, attempts + 1).instrument(span.clone()).await;
            if matches!(written, Err(_) | Ok(TransactionOutcome::Failed(..))) {
                spans::record_error(&span, "projection_failed");
            }
            match written? {
                TransactionOutcome::Committed(handled) => {
                    rest = &rest[handled..];
                    report(handled as u64, self.position);
                }
                TransactionOutcome::Failed(failed, error) => {
                    let attempts = if failed.start == 0 { attempts + 1 } else { 1 };
                    failure = Some(Failure::of(&rest[failed], attempts, error, self.inner.name()));
                }
            }
        }
        if self.position < batch_end {
            self.position = batch_end;
            report(0, self.position);
        }
        Ok(())
    }

    /// Waits until the next attempt of an event, and returns the number of attempts so far.
    async fn wait_for_retry(&mut self, event: &RecordedEvent, failure: Option<Failure>) -> Result<u32, FeedStop> {
        let Some(Failure::Event(retry)) = failure else {
            return Ok(0);
        };
        if retry.is_final() {
            // a permanent error is the event's, whatever the tables are
            if !retry.error.is_permanent() {
                self.check_tables_after_failure().await?;
            }
            return Err(FeedStop::EventFailed(event.clone(), retry.error));
        }
        retry.log_retry(self.inner.name());
        let pause = self.context.clock.sleep(retry.delay());
        match self.held_lease.ended().run_until_cancelled(pause).await {
            Some(()) => Ok(retry.attempts),
            None => Err(FeedStop::Interrupted),
        }
    }

    /// Handles events in one transaction, which ends early if it takes long.
    async fn try_transaction(
        &mut self,
        events: &[RecordedEvent],
        through: Position,
        attempt: u32,
    ) -> Result<TransactionOutcome, FeedStop> {
        let definition = self.inner.definition();
        let mut transaction = self.begin_transaction().await?;
        let longest = TRANSACTION_TIME_MAX.min(self.held_lease.ttl() / TRANSACTIONS_PER_LEASE);
        let began = self.context.clock.instant();
        let deliver = |record: &RecordedEvent| {
            feed_delivery(&definition, record.clone(), &self.context.state).with_attempt(attempt)
        };
        let mut handled = 0;
        while handled < events.len() {
            let end = handled + count_of_next_call(&definition, &events[handled..]);
            let deliveries: Vec<Delivery> = events[handled..end].iter().map(deliver).collect();
            if let Err(error) = self.inner.write_rows(&deliveries, &mut *transaction).await {
                let is_late = transaction.is_late();
                drop(transaction);
                return self.confirm_ownership(handled..end, error, is_late).await;
            }
            handled = end;
            if self.context.clock.elapsed(began) >= longest || self.held_lease.ended().is_cancelled() {
                break;
            }
        }
        let to = if handled == events.len() { through } else { position_of(events[..handled].last()) };
        let is_late = transaction.is_late();
        // a method may have passed over the error of a statement, after which all others fail
        let checked = self.check_tables(&mut *transaction).await;
        let committed = match checked {
            Ok(()) => self.commit_at(transaction, to).await,
            Err(stop) => {
                drop(transaction);
                Err(stop)
            }
        };
        match committed {
            Ok(()) => Ok(TransactionOutcome::Committed(handled)),
            // a constraint that only the commit checks does not tell which event broke it
            Err(FeedStop::Store(error)) => self.confirm_ownership(0..handled, HandlerError::from(error), is_late).await,
            Err(stop) => Err(stop),
        }
    }

    /// Checks that the store has the tables and the column that the attribute names. Called after methods have run, as
    /// they may create tables.
    async fn check_tables(&mut self, transaction: &mut dyn Transaction) -> Result<(), FeedStop> {
        if self.has_tables {
            return Ok(());
        }
        let ProjectionDefinition { name, tables, key, .. } = self.inner.definition();
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

    /// Decides whether these events caused a failure, and not a fault of the server or the loss of the lease. To check
    /// the lease, it moves the checkpoint to where it is, in a transaction that it drops.
    async fn confirm_ownership(
        &self,
        failed: Range<usize>,
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
        if is_owner { Ok(TransactionOutcome::Failed(failed, error)) } else { Err(FeedStop::LeaseLost) }
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

    /// Returns the time until [`save_checkpoint`](Self::save_checkpoint) has something to save, `None` if it has
    /// nothing.
    pub(super) fn save_due_in(&self) -> Option<Duration> {
        let left = CHECKPOINT_INTERVAL.saturating_sub(self.context.clock.elapsed(self.saved_at));
        (self.saved_checkpoint != self.position).then_some(left)
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

async fn next_batch(span: FeedRead, feed: &mut RecordStream<'_>, events_max: usize) -> Result<FeedBatch, ReadError> {
    read_batch(span, feed, events_max, PAGE_BYTES).await
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        domain::{name::Name, record::NewEvent, stream::StreamId},
        runtime::feed_poller::tests::FailedOver,
        testkit::{TableStore, Tables},
    };

    /// Writes a row for each event: its position.
    pub(in super::super) struct Written;

    #[eventbus::projection(name = "written", tables("written"), manual)]
    impl Written {
        fn any(&self, event: &RecordedEvent, tables: &mut Tables) {
            tables.row("written", event.position().unwrap().to_string());
        }
    }

    /// Returns the positions of the events that have a row.
    pub(in super::super) async fn written(store: &TableStore) -> Vec<String> {
        store.tables().await.rows("written").into_iter().map(|(key, _)| key).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn rows_are_those_of_the_events_of_a_promoted_server() {
        let store = TableStore::new();
        let _app = FailedOver::feed(store.clone(), Written).await;
        assert_eq!(written(&store).await, ["1", "2"]);
    }

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
        let batch = next_batch(FeedRead::none(), &mut feed, TRANSACTION_EVENTS_MAX).await.unwrap();
        assert_eq!((batch.events.len(), batch.through(Position::new(9))), (2, Position::new(2)));
        assert!(matches!(batch.end, BatchEnd::Failed(_)), "the writer returns it once they are written");
        assert!(next_batch(FeedRead::none(), &mut feed, TRANSACTION_EVENTS_MAX).await.is_err());
    }
}
