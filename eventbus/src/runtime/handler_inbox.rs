//! The inbox of handlers that write to the store: their rows, the events that they save and the note of the delivery
//! commit together.
//!
//! Invariant: one commit makes the note and the effects. So an error, a panic, a timeout or a crash leaves neither of them;
//! after an unknown outcome the note shows whether the delivery took effect.
//!
//! A handler that takes the store's transaction runs within it. One that only saves by repositories runs before: no row
//! is locked meanwhile, and its saves and the note are one [append](MultiStreamAppend).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{
    definition::{HandlerCall, HandlerDefinition},
    handler_context::HandlerContext,
    metrics::{AppendOutcome, Meters},
    repository::{CONFLICT_RETRY, RepositorySource},
};
use crate::{
    delivery::{
        activity::{note_server_fault, without_timeout},
        within_grace_period,
    },
    domain::{
        clock::SharedClock,
        context::EventContext,
        error::{BoxError, ErrorChain},
        metadata::Metadata,
        name::Name,
    },
    port::{
        Append, AppendError, EventStore, Transaction, Transactions,
        backoff::{Backoff, BackoffTimer},
        delivery::{Delivery, HandlerError, HandlerErrorKind},
        handler_saves::{AfterCommit, HandlerSaves},
        multi_stream_append::{Handled, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
    },
    support::{source_chain, spans, unique_changes},
};

/// Delays between attempts to begin a transaction while the store is away.
const BEGIN_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Lets one handler take effect once for each event.
pub(crate) struct HandlerInbox {
    commit: Commit,
    /// Set if the handler takes repositories.
    takes_repository: bool,
    /// The key of the handler's notes in the store: its name.
    name: Name,
    /// Cancelled when the app stops: no transaction begins after the grace period.
    stop: CancellationToken,
    clock: SharedClock,
    begin_within: Option<Duration>,
    skipped: Arc<AtomicU64>,
    /// The counters of the app, for what the handler saves.
    meters: Meters,
}

/// Ends the saves of a run when it is over, also if the handler failed or its future was dropped. A task that the
/// handler left behind then gets an error, and no answer about events that are never stored.
struct EndSaves(Option<Arc<HandlerSaves>>);

impl Drop for EndSaves {
    fn drop(&mut self) {
        if let Some(saves) = &self.0 {
            saves.end();
        }
    }
}

/// How the effects of a handler are committed.
#[derive(Clone)]
enum Commit {
    /// In the transaction that the handler takes.
    Transaction(Arc<dyn Transactions>),
    /// By a multi-stream append.
    Append(Arc<dyn EventStore>),
}

impl HandlerInbox {
    /// Creates the inbox of a handler; `None` if it takes neither a transaction nor a repository, or if no store of the
    /// context offers them.
    pub(crate) fn for_handler(handler: &HandlerDefinition, context: &HandlerContext) -> Option<Self> {
        let requirements = handler.requirements();
        let (transactions, repositories) = (requirements.transactions(), requirements.aggregates());
        let commit = match (&context.transactions, context.state.get::<RepositorySource>()) {
            (Some(lent), _) if !transactions.is_empty() => Commit::Transaction(Arc::clone(lent)),
            (_, Some(source)) if !repositories.is_empty() => Commit::Append(source.store),
            _ => return None,
        };
        Some(Self {
            commit,
            takes_repository: !repositories.is_empty(),
            name: Self::key(handler)?,
            stop: context.stop.clone(),
            clock: context.clock.clone(),
            begin_within: context.begin_within,
            skipped: Arc::clone(&context.skipped),
            meters: context.state.get::<RepositorySource>().map(|source| source.meters).unwrap_or_default(),
        })
    }

    /// Returns the key of the handler's notes in the store; `None` if it takes neither a transaction nor a repository.
    pub(crate) fn key(handler: &HandlerDefinition) -> Option<Name> {
        let requirements = handler.requirements();
        let has_inbox = !requirements.transactions().is_empty() || !requirements.aggregates().is_empty();
        has_inbox.then_some(Name::from_static(handler.name))
    }

    /// Runs the handler, and commits its effects, unless an earlier delivery of the event has committed. If another
    /// writer was first to a stream that the handler saves to, runs it again.
    pub(crate) async fn run_once(&self, delivery: &Delivery, call: HandlerCall) -> Result<(), HandlerError> {
        let mut attempt = 1;
        loop {
            match self.try_run(delivery, call).await {
                Ok(after_commit) => {
                    after_commit.into_iter().for_each(|task| task());
                    return Ok(());
                }
                Err(error) if is_conflict(&error) && CONFLICT_RETRY.allows(attempt) => {
                    let event_id = delivery.metadata().event_id();
                    tracing::debug!(handler = %self.name, %event_id, attempt, "conflict, running the handler again");
                    self.clock.sleep(CONFLICT_RETRY.jittered(attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_run(&self, delivery: &Delivery, call: HandlerCall) -> Result<Vec<AfterCommit>, HandlerError> {
        let saves = self.takes_repository.then(Arc::<HandlerSaves>::default);
        let _end = EndSaves(saves.clone());
        let delivery = match &saves {
            Some(saves) => delivery.clone().with_saves(Arc::clone(saves)),
            None => delivery.clone(),
        };
        match &self.commit {
            Commit::Transaction(transactions) => self.run_in_transaction(&delivery, call, saves, &**transactions).await,
            Commit::Append(store) => {
                let outcome = self.run_and_save(&delivery, call, saves, &**store).await;
                outcome.map_err(|error| match store.server_fault(error.get_ref()) {
                    Some(fault) => error.with_server_fault(fault),
                    None => error,
                })
            }
        }
    }

    async fn run_in_transaction(
        &self,
        delivery: &Delivery,
        call: HandlerCall,
        saves: Option<Arc<HandlerSaves>>,
        transactions: &dyn Transactions,
    ) -> Result<Vec<AfterCommit>, HandlerError> {
        let begin = self.begin_transaction(delivery.metadata(), transactions);
        let begin_outcome =
            without_timeout(within_grace_period(&self.stop, begin)).await.ok_or_else(HandlerError::not_begun)??;
        let Some(mut transaction) = begin_outcome else {
            self.note_skipped(delivery);
            return Ok(Vec::new());
        };
        let handled = call(delivery, Some(transaction.as_any_mut())).await;
        let (mut appends, after_commit) = saves.map(|saves| saves.end()).unwrap_or_default();
        // they follow each other: a stream that gives its unique value back comes before one that takes it
        appends.sort_by_cached_key(takes_value);
        let events: usize = if handled.is_ok() { appends.iter().map(|append| append.events.len()).sum() } else { 0 };
        let began = (events > 0).then(|| self.clock.instant());
        let span = if events > 0 { spans::append(|| None, &mut EventContext::default()) } else { Span::none() };
        let committing = async {
            let appended = async {
                handled?;
                for append in appends {
                    transaction.append(append).await?;
                }
                Ok(())
            };
            let appended: Result<(), HandlerError> = appended.await;
            let is_late = transaction.is_late();
            let committed = match appended {
                Ok(()) => transaction.commit().await.map_err(HandlerError::from),
                Err(error) => {
                    drop(transaction);
                    Err(error)
                }
            };
            (committed, is_late)
        };
        let (committed, is_late) = committing.instrument(span.clone()).await;
        if let Some(began) = began {
            let stored = committed.as_ref().map(|()| events).map_err(find_append_error);
            if let Err(error) = &stored {
                let outcome = error.map_or(AppendOutcome::Unknown, AppendOutcome::of_error);
                spans::record_error(&span, outcome.label());
            }
            self.meters.record_append(self.clock.elapsed(began), stored);
        }
        // the store ended a late transaction for its age: no fault of the server
        let committed = committed.map_err(|error| if is_late { error } else { classify_error(error, transactions) });
        committed.map(|()| after_commit)
    }

    async fn run_and_save(
        &self,
        delivery: &Delivery,
        call: HandlerCall,
        saves: Option<Arc<HandlerSaves>>,
        store: &dyn EventStore,
    ) -> Result<Vec<AfterCommit>, HandlerError> {
        let Some(multi_stream) = store.multi_stream_appends() else {
            return Err(HandlerError::permanent("the store appends to one stream at a time only"));
        };
        let handled = HandledDelivery::new(self.name.clone(), delivery.metadata());
        // not run again on its own effects, which might make it fail
        if multi_stream.is_handled(&handled).await? {
            self.note_skipped(delivery);
            return Ok(Vec::new());
        }
        call(delivery, None).await?;
        let (appends, after_commit) = saves.map(|saves| saves.end()).unwrap_or_default();
        if appends.is_empty() {
            return Ok(after_commit);
        }
        let multi = MultiStreamAppend { appends, handled: Some(Handled::Delivery(handled)), condition: None };
        let span = spans::append(|| None, &mut EventContext::default());
        let append = self.meters.measure_append(&self.clock, multi_stream.append_streams(multi));
        let appended = append.instrument(span.clone()).await;
        let appended = appended.inspect_err(|error| spans::record_error(&span, AppendOutcome::of_error(error).label()));
        match appended? {
            MultiStreamOutcome::Appended(_) => Ok(after_commit),
            MultiStreamOutcome::AlreadyHandled => {
                self.note_skipped(delivery);
                Ok(Vec::new())
            }
        }
    }

    fn note_skipped(&self, delivery: &Delivery) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        let event_id = delivery.metadata().event_id();
        tracing::debug!(handler = %self.name, %event_id, "delivery took effect before, skipped");
    }

    /// Begins a transaction and notes the delivery in it; `None` if the handler took effect for the event before.
    ///
    /// Retries while the store is away, until the app stops or [`begin_within`](HandlerContext::begin_within) is over: an
    /// outage is no fault of the event and uses up no attempt.
    async fn begin_transaction(
        &self,
        event: &Metadata,
        transactions: &dyn Transactions,
    ) -> Result<Option<Box<dyn Transaction>>, HandlerError> {
        let (mut backoff, began) = (BackoffTimer::new(BEGIN_BACKOFF), self.clock.instant());
        loop {
            match self.try_begin_transaction(event, transactions).await {
                Ok(begin_outcome) => return Ok(begin_outcome),
                Err(error) if self.begin_within.is_some_and(|limit| self.clock.elapsed(began) >= limit) => {
                    let error = ErrorChain(&*error).to_string();
                    return Err(format!("the store cannot begin a transaction: {error}").into());
                }
                Err(error) => {
                    let fault = transactions.server_fault(&*error);
                    let fault = fault.map_or_else(|| "no transaction can begin".into(), |fault| fault.to_string());
                    let is_news = note_server_fault(fault, &self.clock);
                    self.log_failure(&error, is_news);
                    self.clock.sleep(backoff.next_jittered()).await;
                }
            }
        }
    }

    fn log_failure(&self, error: &BoxError, is_news: bool) {
        let error = ErrorChain(&**error);
        if is_news {
            tracing::warn!(handler = %self.name, %error, "store cannot begin a transaction, trying again");
        } else {
            tracing::debug!(handler = %self.name, %error, "store still cannot begin a transaction");
        }
    }

    async fn try_begin_transaction(
        &self,
        event: &Metadata,
        transactions: &dyn Transactions,
    ) -> Result<Option<Box<dyn Transaction>>, BoxError> {
        let mut transaction = transactions.begin().await?;
        Ok(transaction.is_first(&self.name, event.stream(), event.event_id()).await?.then_some(transaction))
    }
}

/// Returns `true` if the stream holds a unique value after the append that it may not have held before.
fn takes_value(append: &Append) -> bool {
    unique_changes(&append.events).iter().any(|change| change.value().is_some())
}

/// Returns `true` if another writer was first to a stream that the handler saved to, and the handler leaves the next step to
/// the inbox.
fn is_conflict(error: &HandlerError) -> bool {
    error.kind() == HandlerErrorKind::Retry && find_append_error(error).is_some_and(AppendError::is_conflict)
}

/// Returns the error of an append among the sources of a handler's error.
fn find_append_error(error: &HandlerError) -> Option<&AppendError> {
    source_chain(error.get_ref()).find_map(|error| error.downcast_ref())
}

/// Turns the error into a server fault if the store's driver finds one in it, also where the handler wrapped it.
pub(crate) fn classify_error(error: HandlerError, transactions: &dyn Transactions) -> HandlerError {
    match transactions.server_fault(error.get_ref()) {
        Some(fault) => error.with_server_fault(fault),
        None => error,
    }
}
