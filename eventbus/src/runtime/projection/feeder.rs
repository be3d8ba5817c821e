//! The feeder: handles the events of a feed, for state in memory, for rows that a projection keeps itself, and for rows in
//! the store's transaction, live or in the copies of a rebuild.
//!
//! Invariant: the transaction that holds the rows also moves the checkpoint, under the lease, and only from the
//! position that this owner knows. So each event takes effect once, and the store refuses an owner that was paused, or
//! whose commit had an unknown outcome, before it commits any row.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{
    ProjectionError,
    context::{RunnerContext, projection_role},
    event_handling::{BATCH_EVENTS_MAX, FeedStop, count_of_next_call, feed_delivery},
    failure::{Failure, position_of},
    fed_projection::FedProjection,
    memory_check::{Compared, MemoryCheck},
    note::record_rebuild,
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{
        ReadError, RecordStream, Shadow, Transaction, Transactions,
        delivery::{Delivery, HandlerError},
        feed_page::{BatchEnd, FeedBatch},
    },
    runtime::{
        definition::{ProjectionDefinition, ProjectionKind},
        feed_poller::{EndCheck, FeedPoller},
        handler_inbox::classify_error,
        held_lease::HeldLease,
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

/// Interval at which the feeder saves a checkpoint past events of other types.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// A checkpoint of rows that a projection keeps itself is saved at least this often, in events.
const CHECKPOINT_EVENTS_MAX: u64 = 256;

/// Feeds a projection, live, or fills the copies of its tables.
pub(super) struct Feeder<'a> {
    inner: &'a dyn FedProjection,
    context: &'a RunnerContext,
    /// `None` for state in memory, which every process feeds from the first event.
    held_lease: Option<&'a HeldLease>,
    /// Ends the feed; with a lease, the end of the lease.
    stop: &'a CancellationToken,
    /// `None` if the methods do not take the store's connection.
    rows: Option<RowTransactions<'a>>,
    /// All events up to this position are handled.
    position: Position,
    /// The checkpoint in the store; behind the position if the last events are of other types. `None` if it is to be
    /// loaded: at the begin, and when the outcome of a commit is unknown.
    saved_checkpoint: Option<Position>,
    saved_at: Instant,
    /// The number of events handled without a transaction since the checkpoint was saved.
    unsaved_events: u64,
    end_check: EndCheck,
    /// Set once the tables were found. A rebuild begins with it set: the store made its copies from the tables.
    has_tables: bool,
    /// The generation of the projection's progress when the last pass began.
    generation: u64,
    /// `None` for rows.
    memory: Option<&'a mut MemoryCheck>,
    /// The number of possible restores of the store before its head was asked.
    possible_restores: u64,
    /// State in memory is filled from the first event: the traces of events older than this have ended.
    traced_since: Option<OffsetDateTime>,
}

/// The transactions in which the methods write rows.
#[derive(Clone)]
struct RowTransactions<'a> {
    transactions: Arc<dyn Transactions>,
    /// `None`: the live tables.
    shadow: Option<&'a Shadow>,
    held_lease: &'a HeldLease,
}

impl RowTransactions<'_> {
    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        match self.shadow {
            Some(shadow) => self.transactions.begin_in(shadow).await,
            None => self.transactions.begin().await,
        }
    }
}

/// Outcome of events that are handled together.
enum Outcome {
    /// So many events are handled, and their rows committed.
    Handled(usize),
    /// No rows are committed: these events could not be handled, as one of them or several together fail.
    Failed(Range<usize>, HandlerError),
}

impl<'a> Feeder<'a> {
    /// Creates the feeder of a live projection; it begins at the checkpoint, state in memory at its position.
    pub(super) fn live(
        inner: &'a dyn FedProjection,
        context: &'a RunnerContext,
        held_lease: Option<&'a HeldLease>,
        memory: Option<&'a mut MemoryCheck>,
        stop: &'a CancellationToken,
    ) -> Self {
        let is_transactional = inner.definition().kind == ProjectionKind::Transactional;
        let transactions = context.store.transactions().filter(|_| is_transactional);
        let rows = transactions.zip(held_lease).map(|(transactions, held_lease)| RowTransactions {
            transactions,
            shadow: None,
            held_lease,
        });
        Self {
            inner,
            context,
            held_lease,
            stop,
            has_tables: rows.is_none(),
            rows,
            position: Position::START,
            saved_checkpoint: None,
            saved_at: context.clock.instant(),
            unsaved_events: 0,
            end_check: EndCheck::new(&*context.store),
            generation: 0,
            memory,
            possible_restores: 0,
            traced_since: held_lease.is_none().then(|| context.clock.now()),
        }
    }

    /// Creates a feeder that fills copies of the tables, which have the checkpoint `saved`.
    pub(super) fn of_copies(
        inner: &'a dyn FedProjection,
        context: &'a RunnerContext,
        held_lease: &'a HeldLease,
        (transactions, shadow): (&Arc<dyn Transactions>, &'a Shadow),
        saved: Position,
    ) -> Self {
        Self {
            rows: Some(RowTransactions { transactions: Arc::clone(transactions), shadow: Some(shadow), held_lease }),
            position: saved,
            saved_checkpoint: Some(saved),
            has_tables: true,
            ..Self::live(inner, context, Some(held_lease), None, held_lease.ended())
        }
    }

    /// Returns the position up to which all events are handled.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Handles the events that the feed holds now. Returns `true` if there were any.
    pub(super) async fn feed_available(&mut self, feed: &mut FeedPoller) -> Result<bool, FeedStop> {
        let fed = self.try_feed_available(feed).await;
        if matches!(fed, Err(FeedStop::Store(_))) && self.rows.is_some() {
            self.saved_checkpoint = None;
        }
        fed
    }

    async fn try_feed_available(&mut self, feed: &mut FeedPoller) -> Result<bool, FeedStop> {
        self.begin_pass().await?;
        self.possible_restores = self.context.store.appended().possible_restores();
        let head = feed.head().await?;
        self.compare_with_store(head, feed.take_failure()).await?;
        let (inner, generation) = (self.inner, self.generation);
        inner.progress().note_head(head);
        let is_behind = head > self.position;
        if is_behind {
            let has_transactions = self.rows.is_some();
            let mut report = |events, position| match has_transactions {
                true => inner.progress().advance_by_owner(events, position),
                // it has counted its events itself
                false => drop(inner.progress().advance(0, position, generation)),
            };
            self.feed_up_to(head, &mut report).await?;
        }
        self.save_checkpoint(false).await?;
        Ok(is_behind)
    }

    /// Takes the position from the checkpoint, or from a rebuild that has replaced the state or restarts the feed.
    ///
    /// Invariant: of the tasks of this process only this one saves the checkpoint, so a save from before a restart cannot
    /// end after the one that sets the checkpoint back.
    async fn begin_pass(&mut self) -> Result<(), FeedStop> {
        let (inner, context) = (self.inner, self.context);
        if let Some(held_lease) = self.held_lease
            && self.saved_checkpoint.is_none()
        {
            let saved = context.load_checkpoint(&held_lease.lease().role).await?;
            inner.progress().follow_checkpoint(saved);
            (self.saved_checkpoint, self.end_check) = (Some(saved), EndCheck::new(&*context.store));
        }
        let is_set_back = {
            let progress = inner.progress().borrow();
            (self.position, self.generation) = (progress.position, progress.generation);
            progress.must_reset_checkpoint
        };
        if let Some(held_lease) = self.held_lease
            && is_set_back
        {
            self.save_checkpoint(true).await?;
            record_rebuild(&inner.definition(), context, held_lease).await?;
            inner.progress().confirm_checkpoint_reset(self.generation);
        }
        Ok(())
    }

    /// Compares state in memory with the store, if an older copy may have replaced it. The feed is read again from the last
    /// event on that both have: the copy may have others of the state's types at the positions that were passed.
    async fn compare_with_store(&mut self, head: Position, has_failed: bool) -> Result<(), FeedStop> {
        let at = (self.position, self.generation);
        let Some(memory) = &mut self.memory else { return Ok(()) };
        match memory.compare(&*self.context.store, at, (head, has_failed)).await? {
            Compared::Same => Ok(()),
            Compared::WentBack => Err(FeedStop::WentBack(head)),
            Compared::SameUpTo(shared) => {
                let set_back = self.inner.progress().set_back(shared, self.generation).ok_or(FeedStop::Interrupted)?;
                (self.position, self.generation) = set_back;
                memory.keep_for(self.generation);
                Ok(())
            }
        }
    }

    /// Handles all events up to `target`, which was the head of the store; calls `report` after each step.
    pub(super) async fn feed_up_to(
        &mut self,
        target: Position,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<(), FeedStop> {
        let (stop, store, definition) = (self.stop, &*self.context.store, self.inner.definition());
        let events_max = if definition.has_batch_methods() { BATCH_EVENTS_MAX } else { TRANSACTION_EVENTS_MAX };
        let skips = self.inner.skips(store, &self.context.clock).await?;
        let mut feed = read_around(store, self.position, target, &definition.events.into(), &skips);
        let (is_rebuild, traced_since) = (self.is_rebuild(), self.traced_since);
        let begin_read = || match is_rebuild {
            true => FeedRead::none(),
            false => FeedRead::begin(|| projection_role(definition.name)).since(traced_since),
        };
        // without a transaction each event takes effect at once
        let is_ready_enough = self.rows.is_none();
        let mut read_next = async || match is_ready_enough {
            true => next_ready_batch(begin_read(), &mut feed, events_max).await,
            false => read_batch(begin_read(), &mut feed, events_max, PAGE_BYTES).await,
        };
        let mut next = stop.run_until_cancelled(read_next()).await;
        loop {
            let batch = next.ok_or(FeedStop::Interrupted)??;
            let through = match batch.end {
                BatchEnd::EndOfFeed => {
                    self.end_check.passed(store, self.position.max(position_of(batch.events.last())), target)
                }
                _ => batch.through(target),
            };
            // reads the next batch while it handles this one
            let ahead = async {
                match batch.end {
                    BatchEnd::Full => stop.run_until_cancelled(read_next()).await,
                    BatchEnd::EndOfFeed | BatchEnd::Failed(_) => None,
                }
            };
            let (handled, ahead) = tokio::join!(self.handle_batch(&batch, through, report), ahead);
            handled?;
            match batch.end {
                BatchEnd::Full => next = ahead,
                BatchEnd::EndOfFeed => return Ok(()),
                BatchEnd::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Handles a batch in as few transactions as it takes; without a transaction, event by event.
    ///
    /// A failed event is retried alone, after those before it are committed. Among events that failed together, in a
    /// batch method or at the commit, smaller transactions find it.
    async fn handle_batch(
        &mut self,
        batch: &FeedBatch,
        batch_end: Position,
        report: &mut (dyn FnMut(u64, Position) + Send),
    ) -> Result<(), FeedStop> {
        let mut rest = &*batch.events;
        let mut failure: Option<Failure> = None;
        while let Some(first) = rest.first() {
            // events of an older copy would hide that the store lacks those before
            let may_have_gone_back =
                self.memory.is_some() && self.context.store.appended().possible_restores() != self.possible_restores;
            if self.stop.is_cancelled() || may_have_gone_back {
                return Err(FeedStop::Interrupted);
            }
            let (count, attempts) = match failure.as_ref().map(|failure| failure.count_of_next_transaction(rest)) {
                Some(0) => (1, self.wait_for_retry(first, failure.take()).await?),
                Some(count) => (count, 0),
                None if self.rows.is_none() => (1, 0),
                None => (rest.len(), 0),
            };
            let through = if count == rest.len() { batch_end } else { position_of(rest[..count].last()) };
            let events = &rest[..count];
            let span = if self.is_traced(first) { spans::project(self.inner.name(), events) } else { Span::none() };
            let handled = self.handle_together(events, through, attempts + 1).instrument(span.clone()).await;
            if matches!(handled, Err(_) | Ok(Outcome::Failed(..))) {
                spans::record_error(&span, "projection_failed");
            }
            match handled? {
                Outcome::Handled(handled) => {
                    rest = &rest[handled..];
                    report(handled as u64, self.position);
                }
                Outcome::Failed(failed, error) => {
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

    /// Returns `false` for an event whose trace has ended: of a rebuild, or from before state in memory was begun.
    fn is_traced(&self, event: &RecordedEvent) -> bool {
        let is_old = self.traced_since.zip(event.metadata().recorded_at()).is_some_and(|(since, at)| at < since);
        !self.is_rebuild() && !is_old
    }

    fn is_rebuild(&self) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.shadow.is_some())
    }

    /// Waits until the next attempt of an event, and returns the number of attempts so far.
    async fn wait_for_retry(&mut self, event: &RecordedEvent, failure: Option<Failure>) -> Result<u32, FeedStop> {
        let Some(Failure::Event(retry)) = failure else {
            return Ok(0);
        };
        // state in memory may be half changed
        if self.held_lease.is_none() || retry.is_final() {
            // a permanent error is the event's, whatever the tables are
            if !retry.error.is_permanent() {
                self.check_tables_after_failure().await?;
            }
            return Err(FeedStop::EventFailed(event.clone(), retry.error));
        }
        retry.log_retry(self.inner.name());
        let pause = self.context.clock.sleep(retry.delay());
        match self.stop.run_until_cancelled(pause).await {
            Some(()) => Ok(retry.attempts),
            None => Err(FeedStop::Interrupted),
        }
    }

    /// Handles events in one transaction, or one event without one.
    async fn handle_together(
        &mut self,
        events: &[RecordedEvent],
        through: Position,
        attempt: u32,
    ) -> Result<Outcome, FeedStop> {
        let (definition, state) = (self.inner.definition(), &self.context.state);
        let deliver = |record: &RecordedEvent| feed_delivery(&definition, record.clone(), state).with_attempt(attempt);
        match (self.rows.clone(), events) {
            (Some(rows), _) => self.try_transaction(&rows, events, &deliver, through).await,
            (None, [event, ..]) => self.handle_alone(&deliver(event)).await,
            (None, []) => Ok(Outcome::Handled(0)),
        }
    }

    /// Handles an event without a transaction.
    async fn handle_alone(&mut self, delivery: &Delivery) -> Result<Outcome, FeedStop> {
        if self.held_lease.is_some_and(HeldLease::may_have_expired) {
            return Err(FeedStop::LeaseLost);
        }
        match self.inner.handle_from_feed(delivery, self.generation).await {
            Ok(true) => {}
            Ok(false) => return Err(FeedStop::Interrupted),
            Err(error) => return Ok(Outcome::Failed(0..1, error)),
        }
        self.position = delivery.record().position().unwrap_or(self.position);
        if let Some(memory) = &mut self.memory {
            memory.note_folded(self.position, delivery.record().metadata().event_id());
        }
        self.unsaved_events += 1;
        if self.unsaved_events >= CHECKPOINT_EVENTS_MAX {
            self.save_checkpoint(true).await?;
        }
        Ok(Outcome::Handled(1))
    }

    /// Handles events in one transaction, which ends early if it takes long.
    async fn try_transaction(
        &mut self,
        rows: &RowTransactions<'_>,
        events: &[RecordedEvent],
        deliver: &(dyn Fn(&RecordedEvent) -> Delivery + Sync),
        through: Position,
    ) -> Result<Outcome, FeedStop> {
        let definition = self.inner.definition();
        let mut transaction = rows.begin().await?;
        let longest = TRANSACTION_TIME_MAX.min(rows.held_lease.ttl() / TRANSACTIONS_PER_LEASE);
        let began = self.context.clock.instant();
        let mut handled = 0;
        while handled < events.len() {
            let end = handled + count_of_next_call(&definition, &events[handled..]);
            let deliveries: Vec<Delivery> = events[handled..end].iter().map(deliver).collect();
            if let Err(error) = self.inner.write_rows(&deliveries, &mut *transaction).await {
                let is_late = transaction.is_late();
                drop(transaction);
                return self.confirm_ownership(rows, handled..end, error, is_late).await;
            }
            handled = end;
            if self.context.clock.elapsed(began) >= longest || self.stop.is_cancelled() {
                break;
            }
        }
        let to = if handled == events.len() { through } else { position_of(events[..handled].last()) };
        let is_late = transaction.is_late();
        // a method may have passed over the error of a statement, after which all others fail
        let checked = self.check_tables(&mut *transaction).await;
        let committed = match checked {
            Ok(()) => self.commit_at(rows, transaction, to).await,
            Err(stop) => {
                drop(transaction);
                Err(stop)
            }
        };
        match committed {
            Ok(()) => Ok(Outcome::Handled(handled)),
            // a constraint that only the commit checks does not tell which event broke it
            Err(FeedStop::Store(error)) => {
                self.confirm_ownership(rows, 0..handled, HandlerError::from(error), is_late).await
            }
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
        let Some(rows) = self.rows.clone().filter(|_| !self.has_tables) else {
            return Ok(());
        };
        let mut transaction = rows.begin().await?;
        self.check_tables(&mut *transaction).await
    }

    /// Decides whether these events caused a failure, and not a fault of the server or the loss of the lease. To check
    /// the lease, it moves the checkpoint to where it is, in a transaction that it drops.
    async fn confirm_ownership(
        &self,
        rows: &RowTransactions<'_>,
        failed: Range<usize>,
        error: HandlerError,
        is_late: bool,
    ) -> Result<Outcome, FeedStop> {
        // the store ended a late transaction for its age: no fault of the server
        let error = if is_late { error } else { classify_error(error, &*rows.transactions) };
        if error.server_fault().is_some() {
            return Err(FeedStop::Store(error.into_source()));
        }
        let (mut transaction, saved) = (rows.begin().await?, self.saved_checkpoint.unwrap_or_default());
        let is_owner = transaction.advance(rows.held_lease.lease(), saved, saved).await?;
        if is_owner { Ok(Outcome::Failed(failed, error)) } else { Err(FeedStop::LeaseLost) }
    }

    /// Saves the position if events were handled without a transaction, or that is due, or `is_end`.
    pub(super) async fn save_checkpoint(&mut self, is_end: bool) -> Result<(), FeedStop> {
        let (Some(held_lease), Some(saved)) = (self.held_lease, self.saved_checkpoint) else { return Ok(()) };
        if self.rows.is_none() {
            // a rebuild may have set it back
            self.position = self.inner.progress().position();
        }
        let is_due =
            is_end || self.unsaved_events > 0 || self.context.clock.elapsed(self.saved_at) >= CHECKPOINT_INTERVAL;
        if saved == self.position || !is_due {
            return Ok(());
        }
        if let Some(rows) = self.rows.clone() {
            let transaction = rows.begin().await?;
            return self.commit_at(&rows, transaction, self.position).await;
        }
        if held_lease.may_have_expired() {
            return Err(FeedStop::LeaseLost);
        }
        self.context.store.save_checkpoint(&held_lease.lease().role, self.position).await?;
        self.note_saved(self.position);
        Ok(())
    }

    /// Returns the time until [`save_checkpoint`](Self::save_checkpoint) has something to save, `None` if it has
    /// nothing.
    pub(super) fn save_due_in(&self) -> Option<Duration> {
        let left = CHECKPOINT_INTERVAL.saturating_sub(self.context.clock.elapsed(self.saved_at));
        self.saved_checkpoint.filter(|saved| *saved != self.position).map(|_| left)
    }

    /// Moves the checkpoint and commits; if the lease is lost, no rows are committed.
    async fn commit_at(
        &mut self,
        rows: &RowTransactions<'_>,
        mut transaction: Box<dyn Transaction>,
        to: Position,
    ) -> Result<(), FeedStop> {
        let saved = self.saved_checkpoint.unwrap_or_default();
        if !transaction.advance(rows.held_lease.lease(), saved, to).await? {
            return Err(FeedStop::LeaseLost);
        }
        transaction.commit().await?;
        self.note_saved(to);
        Ok(())
    }

    fn note_saved(&mut self, at: Position) {
        (self.position, self.saved_checkpoint) = (at, Some(at));
        (self.saved_at, self.unsaved_events) = (self.context.clock.instant(), 0);
    }
}

/// Reads the next batch, until it is full or the feed has to wait for the store, as in the search for a rare type.
async fn next_ready_batch(
    span: FeedRead,
    feed: &mut RecordStream<'_>,
    events_max: usize,
) -> Result<FeedBatch, ReadError> {
    let (waits, mut has_events) = (AtomicBool::new(false), false);
    let mut ready: RecordStream<'_> = Box::pin(stream::poll_fn(|context| match feed.poll_next_unpin(context) {
        Poll::Pending if has_events => {
            waits.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        }
        polled => {
            has_events |= polled.is_ready();
            polled
        }
    }));
    let mut batch = read_batch(span, &mut ready, events_max, PAGE_BYTES).await?;
    drop(ready);
    if waits.into_inner() {
        batch.end = BatchEnd::Full;
    }
    Ok(batch)
}

#[cfg(test)]
pub(super) mod tests {
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
    async fn the_feeder_writes_the_events_before_one_that_cannot_be_read() {
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
        let batch = read_batch(FeedRead::none(), &mut feed, TRANSACTION_EVENTS_MAX, PAGE_BYTES).await.unwrap();
        assert_eq!((batch.events.len(), batch.through(Position::new(9))), (2, Position::new(2)));
        assert!(matches!(batch.end, BatchEnd::Failed(_)), "the writer returns it once they are written");
        assert!(read_batch(FeedRead::none(), &mut feed, TRANSACTION_EVENTS_MAX, PAGE_BYTES).await.is_err());
    }

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
        let projected = ProjectionInner::new(Rows, None);
        let store: Arc<dyn EventStore> = Arc::new(store);
        let context = RunnerContext::new(store, SharedClock::SYSTEM, StateMap::new(), Name::from_static("a"), TTL);
        let mut feed = FeedPoller::new(&context.feed_head);
        let lease_request = context.lease_request(projection_role("rows"));
        let stop = CancellationToken::new();
        let held_lease = lease_request.acquire(&stop).await.unwrap().unwrap();
        let mut feeder = Feeder::live(&projected, &context, Some(&held_lease), None, held_lease.ended());
        assert!(matches!(feeder.feed_available(&mut feed).await, Ok(true)));
        assert_eq!(feeder.saved_checkpoint, Some(Position::new(1)));

        // no timer fires meanwhile, as in a paused process
        tokio::time::advance(TTL).await;
        projected.progress().restart();
        assert!(matches!(feeder.feed_available(&mut feed).await, Err(FeedStop::LeaseLost)));
        assert!(!projected.progress().follow_checkpoint(Position::new(1)), "the next owner handles all events again");
    }
}
