//! Appending to several streams in one statement, all or none.
//!
//! Invariant: a statement that got no answer may still take effect. It is sent again only with the same event ids and
//! the same note of its delivery, of which the server accepts one; a conflict is final only if the expected version can
//! never come again, a moved boundary only if the expected counts can never come again.

use eventbus::{
    BoxError, EventId, ExpectedVersion, Name, NewEvent, StreamId, Version,
    event::UniqueChange,
    port::{Append, AppendError, ReadError},
    repository::IdempotencyKey,
    store::{Handled, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome, unique_scope},
    support::{boundary_moved, first_multi_stream_result, last_of_each_name, tag_uses, unique_changes},
};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    entry::{conflict_error, has_passed_expected},
    executor::StreamContention,
    plan::bind_streams,
    retry_budget::RetryBudget,
    stored_at::StoredAt,
};
use crate::{
    columns::{UsedTag, bind_events, bind_stream, bind_tags},
    pool::Query,
    resolve::{self, AppendResolution},
    statement_error::StatementError,
    statements::{AppendParts, Statements},
    store_inner::StoreInner,
};

/// The results in the rows of `append_streams.sql`.
const TOOK_EFFECT: i32 = 0;
const STORED_EVENT: i32 = 1;
const FAILED_CHECK: i32 = 2;
const MOVED_BOUNDARY: i32 = 3;
const TAKEN_VALUE: i32 = 4;

/// The column of a result that has the number of the stream of a stored event.
const NUMBER_COLUMN: usize = 5;

/// A multi-stream append, which `check_multi_stream` has passed, on its way to its outcome.
pub(crate) struct MultiStreamStatement<'a> {
    store: &'a StoreInner,
    multi: MultiStreamAppend,
    /// The changes of unique values, each with the number of its append, from 0.
    unique: Vec<(usize, UniqueChange)>,
    /// The tags that it counts or compares.
    tags: Vec<UsedTag>,
    /// Why a statement got no answer: it may still take effect.
    doubt: Option<BoxError>,
}

/// What one statement found.
pub(super) enum Sent {
    Done(MultiStreamOutcome),
    /// The first append whose stream is not at its expected version, with the version that it has.
    Failed(usize, AppendError),
    /// The boundary of the condition has a further event, perhaps one of its own: an earlier statement may have stored
    /// it.
    BoundaryMoved {
        error: AppendError,
        /// Set if the expected counts can never come again.
        is_final: bool,
    },
    /// A value is taken, perhaps by the stream itself, which the statement did not see: a second statement finds out.
    TakenFromNew(AppendError),
    /// Nothing was written: the delivery or the command is noted, or an event id is stored.
    Repeated,
}

impl<'a> MultiStreamStatement<'a> {
    pub(crate) fn new(store: &'a StoreInner, multi: MultiStreamAppend) -> Self {
        let unique = multi.appends.iter().enumerate();
        let unique = unique.flat_map(|(number, append)| {
            unique_changes(&append.events).into_iter().map(move |change| (number, change))
        });
        let (unique, tags) = (unique.collect(), tag_uses(&multi).into_iter().collect());
        Self { store, unique, tags, multi, doubt: None }
    }

    /// Changes the unique values of a stream whose events are stored already.
    pub(crate) fn assign(store: &'a StoreInner, stream: StreamId, version: Version, changes: &[UniqueChange]) -> Self {
        let append = Append { stream, expected: ExpectedVersion::Exact(version), events: Vec::new() };
        let unique = last_of_each_name(changes).into_iter().map(|change| (0, change)).collect();
        Self { store, multi: MultiStreamAppend::single(append), unique, tags: Vec::new(), doubt: None }
    }

    /// Sends it until its outcome is certain, or the retry time is over: the time to connect, from the first retry.
    pub(crate) async fn run(mut self) -> Result<MultiStreamOutcome, AppendError> {
        let mut budget = RetryBudget::new(self.store.config().connect_timeout);
        let mut has_asked_again = false;
        let result = loop {
            let retried = match self.send().await {
                Ok(Sent::Done(outcome)) => break Ok(outcome),
                Ok(Sent::TakenFromNew(_)) if !has_asked_again => {
                    has_asked_again = true;
                    continue;
                }
                Ok(Sent::TakenFromNew(taken)) => match self.resolve().await {
                    Ok(Some(outcome)) => break Ok(outcome),
                    Ok(None) => break Err(taken),
                    Err(error) => error,
                },
                Ok(Sent::Failed(number, conflict)) => match self.resolve().await {
                    Ok(Some(outcome)) => break Ok(outcome),
                    Ok(None) => break Err(self.final_conflict(number, conflict)),
                    Err(error) => error,
                },
                Ok(Sent::BoundaryMoved { error: moved, is_final }) => match self.resolve().await {
                    Ok(Some(outcome)) => break Ok(outcome),
                    Ok(None) => {
                        self.doubt = self.doubt.take().filter(|_| !is_final);
                        break Err(moved);
                    }
                    Err(error) => error,
                },
                Ok(Sent::Repeated) | Err(StatementError::DuplicateEventId(_)) => match self.resolve().await {
                    Ok(Some(outcome)) => break Ok(outcome),
                    Ok(None) => AppendError::Unavailable(StreamContention.into()),
                    Err(error) => error,
                },
                Err(StatementError::NoAnswer(source)) => {
                    self.doubt.get_or_insert(source);
                    AppendError::Unavailable("the statement got no answer".into())
                }
                Err(StatementError::Refused(source)) => break Err(self.refused(source)),
                Err(fault @ StatementError::NotSent(_)) => break Err(AppendError::Unavailable(fault.into())),
                Err(fault) => AppendError::Unavailable(fault.into()),
            };
            if !matches!(retried, AppendError::Unavailable(_))
                || !budget.wait_before_retry(self.store.connections()).await
            {
                break Err(retried);
            }
        };
        if let Ok(MultiStreamOutcome::Appended(_)) = &result {
            self.store.listed_types().add_all(self.events());
        }
        if result.is_ok() || self.doubt.is_some() {
            self.store.append_notifier().notify();
        }
        // an earlier statement may still take effect
        result.map_err(|error| self.doubt.map_or(error, AppendError::OutcomeUnknown))
    }

    async fn send(&self) -> Result<Sent, StatementError> {
        let _permit = self.store.connections().repeated_wait_permit().await?;
        let sent = self.store.append_notifier().sent();
        let rows = self.store.connections().fetch_all(self.query(self.store.statements())).await;
        sent.end(&rows);
        let rows = rows?;
        // committed, but the rows cannot be decoded: resolving reads the records themselves
        self.decode(&rows).map_err(StatementError::NoAnswer)
    }

    pub(super) fn query<'q>(&'q self, statements: &'q Statements) -> Query<'q> {
        let MultiStreamAppend { appends, handled, condition } = &self.multi;
        let (delivery, command) = match handled {
            Some(Handled::Delivery(delivery)) => (Some(delivery), None),
            Some(Handled::Command(command)) => (None, Some(command)),
            None => (None, None),
        };
        let (mut stream_of_event, mut place_of_event) = (Vec::new(), Vec::new());
        for (stream, append) in (1_i64..).zip(appends) {
            stream_of_event.extend(append.events.iter().map(|_| stream));
            place_of_event.extend((1_i64..).take(append.events.len()));
        }
        let query = statements.append_streams(AppendParts {
            has_tags: !self.tags.is_empty(),
            has_values: !self.unique.is_empty(),
            has_note: handled.is_some(),
            lists_types: !self.store.listed_types().has_all(self.events()),
        });
        let query = bind_streams(query, appends.iter())
            .bind(appends.iter().map(|append| append.events.len() as i64).collect::<Vec<_>>())
            .bind(stream_of_event)
            .bind(place_of_event);
        let events = appends.iter().flat_map(|append| &append.events);
        let query = bind_events(query, &events);
        let query = query
            .bind(delivery.map(|delivery| delivery.handler.as_str()))
            .bind(delivery.map(|delivery| delivery.event_id.as_uuid()));
        let stream = delivery.map(|delivery| &delivery.stream);
        let query = query
            .bind(stream.map(|stream| stream.aggregate_id().as_str()))
            .bind(stream.map(|stream| stream.aggregate_type().as_str()))
            .bind(stream.map(eventbus::StreamId::tenant_or_nil))
            .bind(self.unique.iter().map(|(number, _)| *number as i64 + 1).collect::<Vec<_>>())
            .bind(self.unique.iter().map(|(number, change)| self.scope(*number, change)).collect::<Vec<_>>())
            .bind(self.unique.iter().map(|(_, change)| change.value()).collect::<Vec<_>>())
            .bind(command.map(|command| command.tenant_id.unwrap_or_default()))
            .bind(command.map(|command| command.key.as_str()))
            .bind(command.map(|command| command.request))
            .bind(command.map(|command| &*command.answer));
        match &self.tags[..] {
            [] => query,
            used => bind_tags(query, &events, used, condition.as_ref()),
        }
    }

    fn events(&self) -> impl Iterator<Item = &NewEvent> {
        self.multi.appends.iter().flat_map(|append| &append.events)
    }

    /// Returns the scope in which the value of a change is unique.
    fn scope(&self, number: usize, change: &UniqueChange) -> String {
        let append = self.multi.appends.get(number);
        append.map(|append| unique_scope(append.stream.aggregate_type(), change.name())).unwrap_or_default()
    }

    pub(super) fn decode(&self, rows: &[PgRow]) -> Result<Sent, BoxError> {
        let (mut took_effect, mut stored) = (false, Vec::new());
        for row in rows {
            match row.try_get::<i32, _>("result")? {
                TOOK_EFFECT => took_effect = true,
                STORED_EVENT => stored.push(StoredAt::decode_with(row, NUMBER_COLUMN)?),
                FAILED_CHECK => {
                    let number = usize::try_from(row.try_get::<i64, _>("number")?)?.saturating_sub(1);
                    let actual = u64::try_from(row.try_get::<i64, _>("version")?)?;
                    let append = self.multi.appends.get(number).ok_or("a stream that was not sent")?;
                    return Ok(Sent::Failed(number, conflict_error(append, actual.into())));
                }
                MOVED_BOUNDARY => {
                    let condition = self.multi.condition.as_ref().ok_or("a condition that was not sent")?;
                    let is_final = row.try_get::<i64, _>("version")? == 1;
                    return Ok(Sent::BoundaryMoved { error: boundary_moved(condition), is_final });
                }
                TAKEN_VALUE => {
                    let number = usize::try_from(row.try_get::<i64, _>("number")?)?.saturating_sub(1);
                    let (append, change) = self.unique.get(number).ok_or("a change that was not sent")?;
                    let stream = self.multi.appends.get(*append).ok_or("a stream that was not sent")?.stream.clone();
                    let taken = AppendError::Taken { stream, name: change.name().clone() };
                    return Ok(match row.try_get::<i64, _>("version")? {
                        1 => Sent::TakenFromNew(taken),
                        _ => Sent::Failed(*append, taken),
                    });
                }
                other => return Err(format!("unknown result {other}").into()),
            }
        }
        if !took_effect {
            return Ok(Sent::Repeated);
        }
        let mut stored = stored.into_iter();
        let records = self.multi.appends.iter().map(|Append { stream, events, .. }| {
            let own = events.iter().zip(&mut stored);
            own.map(|(event, place)| place.into_record(event.clone(), stream)).collect()
        });
        let records: Vec<Vec<_>> = records.collect();
        let events = self.multi.appends.iter().map(|append| append.events.len()).sum::<usize>();
        if records.iter().map(Vec::len).sum::<usize>() != events {
            return Err("fewer events than sent".into());
        }
        Ok(Sent::Done(MultiStreamOutcome::Appended(records)))
    }

    /// Returns the outcome if it, or its delivery or command, took effect before.
    async fn resolve(&self) -> Result<Option<MultiStreamOutcome>, AppendError> {
        let unavailable = |error: ReadError| AppendError::Unavailable(error.into());
        let is_handled = match &self.multi.handled {
            Some(Handled::Delivery(delivery)) => is_handled(self.store, delivery).await,
            Some(Handled::Command(HandledCommand { tenant_id, key, .. })) => {
                find_command(self.store, *tenant_id, key).await.map(|found| found.is_some())
            }
            None => Ok(false),
        };
        if is_handled.map_err(unavailable)? {
            return Ok(Some(MultiStreamOutcome::AlreadyHandled));
        }
        let with_events = || self.multi.appends.iter().filter(|append| !append.events.is_empty());
        let query = resolve::query(self.store.statements(), with_events());
        let rows = self.store.connections().fetch_all(query).await.map_err(|fault| unavailable(fault.into()))?;
        let mut found = resolve::decide(&rows, with_events()).map_err(AppendError::Unavailable)?.into_iter();
        let first = first_multi_stream_result(&self.multi.appends, |append| match found.next() {
            Some(AppendResolution::Stored(records)) => Ok(Some(records)),
            Some(AppendResolution::Taken(error)) => Err(error),
            Some(AppendResolution::Corrupt(error)) => {
                Err(AppendError::Refused { stream: append.stream.clone(), source: error.into() })
            }
            Some(AppendResolution::Conflict(_) | AppendResolution::Retry) | None => Ok(None),
        });
        Ok(first?.map(MultiStreamOutcome::Appended))
    }

    /// Returns the conflict; of unknown outcome if a statement without an answer may still find the expected version.
    fn final_conflict(&mut self, number: usize, conflict: AppendError) -> AppendError {
        if let (Some(append), AppendError::Conflict { actual, .. }) = (self.multi.appends.get(number), &conflict)
            && has_passed_expected(append.expected, *actual)
        {
            self.doubt = None;
        }
        conflict
    }

    /// The server refuses a statement as a whole; the error names the first stream with events.
    fn refused(&self, source: BoxError) -> AppendError {
        let append = self.multi.appends.iter().find(|append| !append.events.is_empty()).or(self.multi.appends.first());
        match append {
            Some(append) => AppendError::Refused { stream: append.stream.clone(), source },
            None => AppendError::Unavailable(source),
        }
    }
}

/// Returns `true` if the delivery is noted.
pub(crate) async fn is_handled(store: &StoreInner, delivery: &HandledDelivery) -> Result<bool, ReadError> {
    let query = store.statements().query(include_str!("../sql/is_handled.sql"));
    let query = bind_stream(query.bind(delivery.handler.as_str()).bind(delivery.event_id.as_uuid()), &delivery.stream);
    let rows = store.connections().fetch_all(query).await?;
    let unreadable = |error: sqlx::Error| ReadError::Unavailable(error.into());
    rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(unreadable)
}

/// Returns the noted deliveries of events.
pub(crate) async fn handled_deliveries(
    store: &StoreInner,
    events: &[(StreamId, EventId)],
) -> Result<Vec<HandledDelivery>, ReadError> {
    let streams = || events.iter().map(|(stream, _)| stream);
    let query = store
        .statements()
        .query(include_str!("../sql/handled_deliveries.sql"))
        .bind(events.iter().map(|(_, id)| id.as_uuid()).collect::<Vec<_>>())
        .bind(streams().map(|stream| stream.aggregate_id().as_str()).collect::<Vec<_>>())
        .bind(streams().map(|stream| stream.aggregate_type().as_str()).collect::<Vec<_>>())
        .bind(streams().map(StreamId::tenant_or_nil).collect::<Vec<_>>());
    let unreadable = |error: BoxError| ReadError::corrupt("the notes of handled deliveries", error);
    let delivery = |row: &PgRow| {
        let (handler, place): (&str, i64) = (row.try_get("handler")?, row.try_get("place")?);
        let event = usize::try_from(place - 1).ok().and_then(|place| events.get(place));
        let (stream, event_id) = event.cloned().ok_or("no such place")?;
        Ok(HandledDelivery { handler: Name::new("handler", handler)?, stream, event_id })
    };
    let rows = store.connections().fetch_all(query).await?;
    rows.iter().map(delivery).collect::<Result<_, BoxError>>().map_err(unreadable)
}

/// Returns the command that took effect under a key.
pub(crate) async fn find_command(
    store: &StoreInner,
    tenant_id: Option<Uuid>,
    key: &IdempotencyKey,
) -> Result<Option<HandledCommand>, ReadError> {
    let query = store.statements().query(include_str!("../sql/find_command.sql"));
    let rows = store.connections().fetch_all(query.bind(tenant_id.unwrap_or_default()).bind(key.as_str())).await?;
    let decode = |row: &PgRow| {
        let (request, answer) = (row.try_get("request")?, row.try_get("answer")?);
        Ok(HandledCommand { tenant_id, key: key.clone(), request, answer })
    };
    rows.first().map(decode).transpose().map_err(|error: sqlx::Error| ReadError::Unavailable(error.into()))
}
