//! Appending: one statement in one round trip, and a second one only when it stored nothing or gave no answer.
//!
//! Keep: nothing is told the caller as certain that is not. Once a statement went out without an answer, its backend
//! may still be running; only what no late commit can change is final then.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{AppendError, AppendEvents, ReadError, check_ids, check_payloads},
};
use sqlx::Row;
use tokio::time::{Instant, sleep};

use crate::{
    columns::EventColumns,
    fault::Fault,
    pool::Query,
    resolve::{Append, Known, Verdict},
    store::PgEventStore,
};

/// Where each event of an append was put.
type Places = Vec<(Version, Position)>;

/// How an append that succeeded did so.
enum Settled {
    Appended(Places),
    StoredBefore(Vec<RecordedEvent>),
}

#[async_trait]
impl AppendEvents for PgEventStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        check_ids(stream, &events)?;
        check_payloads(stream, &events)?;
        let append = Append { stream, expected, events: &events };
        let settled = self.settle(append).await;
        if matches!(settled, Ok(_) | Err(AppendError::OutcomeUnknown(_))) {
            self.appended.notify();
        }
        Ok(match settled? {
            Settled::StoredBefore(records) => records,
            Settled::Appended(places) => events
                .into_iter()
                .zip(places)
                .map(|(event, (version, position))| event.recorded_as(stream.clone(), version, Some(position)))
                .collect(),
        })
    }
}

impl PgEventStore {
    /// Sends an append, again if need be, until it is known what became of it or the time is over.
    async fn settle(&self, append: Append<'_>) -> Result<Settled, AppendError> {
        let mut effort = Effort::new(self.config.connect_timeout);
        loop {
            match self.send(append).await {
                Ok(places) if !places.is_empty() => return Ok(Settled::Appended(places)),
                Ok(_) | Err(Fault::EventIdStored(_)) => {}
                Err(Fault::NoAnswer(source)) => effort.in_doubt(source),
                Err(Fault::Again(source)) => {
                    effort.pause(source).await?;
                    continue;
                }
                Err(Fault::Refused(source)) => return Err(append.refused(source)),
                Err(fault) => return Err(effort.over(fault.into_source())),
            }
            match self.resolve(append, &mut effort).await?.judge(append)? {
                Verdict::Stored(records) => return Ok(Settled::StoredBefore(records)),
                Verdict::Conflict(actual) => return Err(effort.conflict(append, actual)),
                Verdict::TryAgain => effort.pause(StillRefused.into()).await?,
            }
        }
    }

    /// Sends the statement of one append; no places: the stream is not where it is expected.
    async fn send(&self, append: Append<'_>) -> Result<Places, Fault> {
        let sql = self.statements.append(append.expected).clone();
        let stream = append.stream;
        let mut columns = EventColumns::default();
        for event in append.events {
            columns.push(event).map_err(Fault::Refused)?;
        }
        let query: Query<'_> =
            sqlx::query(sql).bind(stream.aggregate_id().as_str()).bind(stream.aggregate_type().as_str());
        let query = columns.bind_to(query);
        let query = match append.expected {
            ExpectedVersion::Exact(version) if version > Version::NONE => query.bind(version.as_i64()),
            _ => query,
        };
        let rows = self.connections.fetch_all(query).await?;
        let number = |row, column| -> Result<u64, BoxError> {
            Ok(u64::try_from(sqlx::postgres::PgRow::try_get::<i64, usize>(row, column)?)?)
        };
        rows.iter()
            .map(|row| Ok((number(row, 0)?.into(), number(row, 1)?.into())))
            .collect::<Result<_, BoxError>>()
            // stored, and the answer makes no sense: the records themselves will tell
            .map_err(Fault::NoAnswer)
    }

    /// Asks what the store holds of an append, until it says so or the time is over.
    async fn resolve(&self, append: Append<'_>, effort: &mut Effort) -> Result<Known, AppendError> {
        let ids: Vec<_> = append.ids().into_iter().map(EventId::as_uuid).collect();
        loop {
            let query = sqlx::query(self.statements.resolve.clone())
                .bind(append.stream.aggregate_id().as_str())
                .bind(append.stream.aggregate_type().as_str())
                .bind(ids.as_slice());
            let known = match self.connections.fetch_all(query).await {
                Ok(rows) => Known::read(&rows),
                Err(fault) => Err(fault.into()),
            };
            match known {
                Ok(known) => return Ok(known),
                Err(ReadError::Unavailable(source)) => effort.pause(source).await?,
                Err(corrupt) => return Err(append.refused(corrupt.into())),
            }
        }
    }
}

impl Append<'_> {
    fn refused(&self, source: BoxError) -> AppendError {
        AppendError::Refused { stream: self.stream.clone(), source }
    }

    /// Whether the stream at `actual` has left the expected version behind: what is refused now is refused for ever.
    fn is_overtaken(&self, actual: Version) -> bool {
        match self.expected {
            ExpectedVersion::NoStream => actual > Version::NONE,
            ExpectedVersion::Exact(version) => actual > version,
            ExpectedVersion::Any | ExpectedVersion::StreamExists => false,
        }
    }
}

/// An append that was refused although nothing speaks against it.
#[derive(Debug, thiserror::Error)]
#[error("the stream changed under each attempt")]
struct StillRefused;

/// How long and how often an append is tried, and whether a former try may still be stored.
struct Effort {
    patience: Duration,
    deadline: Option<Instant>,
    next_pause: Duration,
    doubt: Option<BoxError>,
}

impl Effort {
    const FIRST_PAUSE: Duration = Duration::from_millis(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);

    fn new(patience: Duration) -> Self {
        Self { patience, deadline: None, next_pause: Self::FIRST_PAUSE, doubt: None }
    }

    /// Remembers that a statement went out without an answer.
    fn in_doubt(&mut self, source: BoxError) {
        self.doubt.get_or_insert(source);
    }

    /// Waits before the next try, each time longer; the time runs from the first pause.
    async fn pause(&mut self, source: BoxError) -> Result<(), AppendError> {
        let now = Instant::now();
        if now >= *self.deadline.get_or_insert(now + self.patience) {
            return Err(self.over(source));
        }
        sleep(self.next_pause).await;
        self.next_pause = (self.next_pause * 2).min(Self::LONGEST_PAUSE);
        Ok(())
    }

    /// What is known when it is not tried any more.
    fn over(&mut self, source: BoxError) -> AppendError {
        match self.doubt.take() {
            Some(doubt) => AppendError::OutcomeUnknown(doubt),
            None => AppendError::Unavailable(source),
        }
    }

    fn conflict(&mut self, append: Append<'_>, actual: Version) -> AppendError {
        match self.doubt.take() {
            Some(doubt) if !append.is_overtaken(actual) => AppendError::OutcomeUnknown(doubt),
            _ => AppendError::Conflict { stream: append.stream.clone(), expected: append.expected, actual },
        }
    }
}
