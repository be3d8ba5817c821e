//! Executing a batch of appends: sends statements until each append has a result or the retry time is over.
//!
//! Invariant: each append gets its own result. The failure of a statement is the result of an append only if the append
//! was alone in it, or if the failure concerns all appends in it: no connection, a failure of the server, or a conflict
//! of transactions until the retry time is over.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{collections::HashSet, pin::pin, sync::Arc};

use eventbus::{BoxError, StreamId, port::BoxFuture};
use sqlx::postgres::PgRow;
use tokio::time::timeout;

use super::{
    blocked_streams::{BlockedStreamGuard, BlockedStreams, STREAM_LOCK_WAIT},
    entry::CommitEntry,
    plan::StatementPlan,
    retry_budget::RetryBudget,
    stored_at::StoredAt,
};
use crate::{
    resolve::{self, AppendResolution},
    statement_error::{StatementError, error_per_append},
    statements::StreamClaims,
    store_inner::StoreInner,
};

/// The server did not store an append in any attempt, though a read after each found its stream at the expected
/// version.
#[derive(Debug, thiserror::Error)]
#[error("the stream changed under each attempt")]
pub(super) struct StreamContention;

/// Sends appends, resolves those without a certain outcome, and completes each with its result.
#[derive(Debug)]
pub(super) struct AppendExecutor {
    pub(super) store: Arc<StoreInner>,
    pub(super) blocked_streams: BlockedStreams,
}

impl AppendExecutor {
    /// Sends the appends, with retries, until each has a certain outcome or the retry time is over: the time to connect,
    /// from the first retry or read of an outcome. A batch that is split before that has one for each half.
    pub(super) async fn execute(&self, entries: Vec<CommitEntry>) {
        let retry_budget = RetryBudget::new(self.store.config().connect_timeout);
        let (one_per_stream, is_contended, had_lock_timeout, blocked) = (false, false, false, None);
        let execution =
            BatchExecution { entries, retry_budget, one_per_stream, is_contended, had_lock_timeout, blocked };
        self.execute_batch(execution).await;
    }

    async fn execute_batch(&self, mut execution: BatchExecution) {
        while !execution.entries.is_empty() {
            let plan = execution.plan();
            let lists_types = !self.store.listed_types().has_all(plan.new_events());
            let sent = self.send(&plan, execution.is_contended, execution.blocked.take(), lists_types).await;
            let StatementPlan { mut entries, chains, .. } = plan;
            match sent {
                Ok(stored) => entries = self.complete_stored(entries, &stored, lists_types),
                // an append was stored before, or its id is in use: `resolve` decides which
                Err(StatementError::DuplicateEventId(_)) => {}
                Err(StatementError::NoAnswer(source)) => {
                    let sources = error_per_append(source, entries.len());
                    entries.iter_mut().zip(sources).for_each(|(entry, source)| entry.mark_in_doubt(source));
                }
                Err(StatementError::TransactionConflict(source)) => {
                    if execution.retry_budget.wait_before_retry(self.store.connections()).await {
                        execution.requeue(entries);
                    } else {
                        self.give_up(entries, source);
                    }
                    continue;
                }
                // a chain holds the appends to one stream: halves isolate the stream that is refused or locked
                Err(StatementError::Refused(_) | StatementError::LockTimeout(_)) if chains.len() > 1 => {
                    execution.requeue(entries);
                    return self.execute_halves(execution).await;
                }
                Err(StatementError::LockTimeout(source)) => {
                    let blocked = entries.first().map(|entry| self.blocked_streams.block(&entry.append.stream));
                    // the next statement waits up to its own time limit, unless a pooler has dropped the store's settings
                    let is_repeated = std::mem::replace(&mut execution.had_lock_timeout, true);
                    if is_repeated && !execution.retry_budget.wait_before_retry(self.store.connections()).await {
                        self.give_up(entries, source);
                    } else {
                        execution.blocked = blocked;
                        execution.requeue(entries);
                    }
                    continue;
                }
                Err(StatementError::Refused(_)) if entries.len() > 1 => {
                    execution.one_per_stream = true;
                    execution.requeue(entries);
                    continue;
                }
                Err(StatementError::Refused(source)) => {
                    entries
                        .into_iter()
                        .zip(error_per_append(source, 1))
                        .for_each(|(entry, source)| entry.complete_refused(source));
                    continue;
                }
                Err(fault) => {
                    self.give_up(entries, fault.into());
                    continue;
                }
            }
            self.resolve(entries, &mut execution).await;
        }
    }

    /// Executes both halves concurrently: one may wait for a row lock, which must not delay the other.
    fn execute_halves(&self, execution: BatchExecution) -> BoxFuture<'_, ()> {
        let (left, right) = execution.split_by_stream();
        Box::pin(async move {
            tokio::join!(self.execute_batch(left), self.execute_batch(right));
        })
    }

    /// Sends one statement, and returns where the server put the events, in order. The server stored no events of an
    /// append whose stream is not at the expected version.
    async fn send(
        &self,
        plan: &StatementPlan,
        is_contended: bool,
        blocked: Option<BlockedStreamGuard>,
        lists_types: bool,
    ) -> Result<Vec<StoredAt>, StatementError> {
        let sent = self.store.append_notifier().sent();
        let rows = match plan.single_stream().filter(|_| !is_contended) {
            Some(stream) => self.send_single_stream(plan, stream, blocked, lists_types).await,
            None => {
                let claims = if is_contended { StreamClaims::Any } else { plan.claims() };
                self.send_multi_stream(plan, claims, lists_types).await
            }
        };
        sent.end(&rows);
        let rows = rows?;
        // committed, but the rows cannot be decoded: resolving reads the records themselves
        rows.iter().map(StoredAt::decode).collect::<Result<_, _>>().map_err(StatementError::NoAnswer)
    }

    /// Sends a statement that waits at most 100 ms for a row lock, then fails with `LockTimeout`: for several streams,
    /// or for one when no long-wait permit is free.
    async fn send_multi_stream(
        &self,
        plan: &StatementPlan,
        claims: StreamClaims,
        lists_types: bool,
    ) -> Result<Vec<PgRow>, StatementError> {
        let _permit = self.store.connections().short_wait_permit().await?;
        self.store.connections().fetch_all(plan.multi_stream_query(self.store.statements(), claims, lists_types)).await
    }

    /// Sends a statement for a single stream, which waits for the row lock up to its time limit. If no long-wait
    /// permit is free, sends a short-wait statement instead; only after that timed out on the row (`blocked`), waits
    /// for a long-wait permit.
    async fn send_single_stream(
        &self,
        plan: &StatementPlan,
        stream: &StreamId,
        mut blocked: Option<BlockedStreamGuard>,
        lists_types: bool,
    ) -> Result<Vec<PgRow>, StatementError> {
        let connections = self.store.connections();
        let _permit = match (connections.try_long_wait_permit(), &blocked) {
            (Some(permit), _) => permit,
            (None, Some(_)) => connections.long_wait_permit().await?,
            (None, None) => return self.send_multi_stream(plan, plan.claims(), lists_types).await,
        };
        // pinned: after the timeout the statement goes on, and its stream counts as blocked
        let mut rows = pin!(connections.fetch_all(plan.single_stream_query(self.store.statements(), lists_types)));
        if let Ok(rows) = timeout(STREAM_LOCK_WAIT, &mut rows).await {
            return rows;
        }
        blocked.get_or_insert_with(|| self.blocked_streams.block(stream));
        rows.await
    }

    /// Completes the appends whose events were stored, and whose types were listed if `lists_types`; returns the rest.
    fn complete_stored(
        &self,
        entries: Vec<CommitEntry>,
        mut stored: &[StoredAt],
        lists_types: bool,
    ) -> Vec<CommitEntry> {
        let (mut open, mut completed) = (Vec::new(), Vec::with_capacity(entries.len()));
        for mut entry in entries {
            let events = &entry.append.events;
            match stored.split_at_checked(events.len()) {
                Some((own, rest)) if own.iter().zip(events).all(|(place, event)| place.is_of(event)) => {
                    stored = rest;
                    if lists_types {
                        self.store.listed_types().add_all(events);
                    }
                    let records = entry.take_records(own);
                    completed.push((entry, records));
                }
                _ => open.push(entry),
            }
        }
        // before the answers: the caller goes on in this thread, and would delay what is signalled
        if !completed.is_empty() {
            self.store.append_batches().record(completed.len());
            self.store.append_notifier().notify_of(completed.iter().flat_map(|(_, records)| records));
        }
        if !stored.is_empty() {
            self.store.append_notifier().notify(); // of events of appends that are still open
        }
        for (entry, records) in completed {
            entry.complete(Ok(records));
        }
        open
    }

    /// Resolves appends that were not stored, or are in doubt; those to be retried go back into the batch.
    async fn resolve(&self, open: Vec<CommitEntry>, execution: &mut BatchExecution) {
        if open.is_empty() {
            return;
        }
        // so that the wait of the read for a connection counts
        execution.retry_budget.start();
        let resolutions = loop {
            match self.load_resolutions(&open).await {
                Ok(resolutions) => break resolutions,
                Err(source) if execution.retry_budget.wait_before_retry(self.store.connections()).await => {
                    tracing::debug!(source, "cannot read the outcome of appends, retrying")
                }
                Err(source) => return self.give_up(open, source),
            }
        };
        let unresolved = open.len();
        let retries = self.complete_resolved(open, resolutions);
        // no delay if an append of this statement got a result: the rest may have failed only because of that append
        execution.is_contended |= !retries.is_empty();
        if retries.len() < unresolved || execution.retry_budget.wait_before_retry(self.store.connections()).await {
            execution.requeue(retries);
        } else {
            self.give_up(retries, StreamContention.into());
        }
    }

    /// Decides about each append, from one snapshot.
    async fn load_resolutions(&self, open: &[CommitEntry]) -> Result<Vec<AppendResolution>, BoxError> {
        let appends = open.iter().map(|entry| &entry.append);
        let query = resolve::query(self.store.statements(), appends.clone());
        resolve::decide(&self.store.connections().fetch_all(query).await?, appends)
    }

    /// Completes appends with a known outcome; returns the rest for retry.
    fn complete_resolved(&self, open: Vec<CommitEntry>, resolutions: Vec<AppendResolution>) -> Vec<CommitEntry> {
        let mut retries: Vec<CommitEntry> = Vec::new();
        let mut undecided: HashSet<StreamId> = HashSet::new();
        for (entry, resolution) in open.into_iter().zip(resolutions) {
            match resolution {
                AppendResolution::Stored(records) => {
                    self.store.append_notifier().notify();
                    entry.complete(Ok(records));
                }
                AppendResolution::Taken(error) => entry.complete(Err(error)),
                AppendResolution::Corrupt(error) => entry.complete_refused(error.into()),
                // final only if no earlier append to the stream is retried: that one may lead to the expected version
                AppendResolution::Conflict(actual) if !undecided.contains(&entry.append.stream) => {
                    self.notify_if_in_doubt(&entry);
                    entry.complete_conflict(actual);
                }
                AppendResolution::Conflict(_) | AppendResolution::Retry => {
                    undecided.insert(entry.append.stream.clone());
                    retries.push(entry);
                }
            }
        }
        retries
    }

    /// Completes appends that are not retried any more.
    fn give_up(&self, entries: Vec<CommitEntry>, source: BoxError) {
        let sources = error_per_append(source, entries.len());
        for (entry, source) in entries.into_iter().zip(sources) {
            self.notify_if_in_doubt(&entry);
            entry.give_up(source);
        }
    }

    /// Wakes readers if the append may be stored.
    fn notify_if_in_doubt(&self, entry: &CommitEntry) {
        if entry.is_in_doubt() {
            self.store.append_notifier().notify();
        }
    }
}

/// The appends of a batch that have no result yet, in order.
#[derive(Debug)]
struct BatchExecution {
    entries: Vec<CommitEntry>,
    retry_budget: RetryBudget,
    /// Set if a statement may hold at most one append per stream.
    one_per_stream: bool,
    /// Set if an append was not stored though its stream is at the expected version. The stream may have a row without
    /// events, which only the statement for any streams claims: `append_streams.sql` makes such rows.
    is_contended: bool,
    /// Set if a statement for a single stream waited too long for its row.
    had_lock_timeout: bool,
    /// Set if a transaction holds the row of the first stream, which is alone in the next statement.
    blocked: Option<BlockedStreamGuard>,
}

impl BatchExecution {
    /// Takes the appends of the next statement out of the batch.
    fn plan(&mut self) -> StatementPlan {
        let mut plan = StatementPlan::new(std::mem::take(&mut self.entries), self.one_per_stream);
        self.entries = std::mem::take(&mut plan.deferred);
        plan
    }

    /// Puts appends back, before those that were deferred.
    fn requeue(&mut self, mut entries: Vec<CommitEntry>) {
        entries.append(&mut self.entries);
        self.entries = entries;
    }

    /// Halves the batch between streams, so that the appends to one stay in order.
    fn split_by_stream(self) -> (Self, Self) {
        let mut streams: Vec<StreamId> = Vec::new();
        let mut seen = HashSet::new();
        streams.extend(self.entries.iter().map(|entry| entry.append.stream.clone()).filter(|s| seen.insert(s.clone())));
        let first: HashSet<_> = streams.drain(..streams.len() / 2).collect();
        let (left, right) = self.entries.into_iter().partition(|entry| first.contains(&entry.append.stream));
        let half = |entries| Self {
            entries,
            retry_budget: self.retry_budget.clone(),
            one_per_stream: self.one_per_stream,
            is_contended: self.is_contended,
            had_lock_timeout: self.had_lock_timeout,
            blocked: None,
        };
        (half(left), half(right))
    }
}
