//! From appends to their results.
//!
//! Keep: each append is judged by itself. What befalls the statement it went out with is its result only if it was
//! alone, or if the same befell all.
//!
//! Real time, not the given clock: the replies of PostgreSQL.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use eventbus::{
    BoxError, EventId, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{BoxFuture, ListedEventTypes, ReadError},
};
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    aside::{Aside, LONG, SetAside},
    effort::Effort,
    entry::Entry,
    plan::Plan,
};
use crate::{
    fault::{Fault, shared},
    notify::Appended,
    pool::Connections,
    record::time_of,
    resolve::{self, Known, Verdict},
    statements::{AppendStatements, Statements},
};

/// Where an event was put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    event_id: EventId,
    version: Version,
    position: Position,
    recorded_at: OffsetDateTime,
}

impl Place {
    /// The event at this place of its stream.
    pub(super) fn record(self, event: NewEvent, stream: &StreamId) -> RecordedEvent {
        let record = event.recorded_as(stream.clone(), self.version, Some(self.position));
        record.with_recorded_at(Some(self.recorded_at))
    }
}

/// An append that was refused although nothing speaks against it.
#[derive(Debug, thiserror::Error)]
#[error("the stream changed under each attempt")]
pub(super) struct StillRefused;

/// Sends appends, and finds out what became of them.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connections: Connections,
    pub(super) statements: Arc<Statements>,
    pub(super) listed: Arc<ListedEventTypes>,
    pub(super) appended: Arc<Appended>,
    pub(super) aside: Aside,
    /// How long appends are tried again.
    pub(super) patience: Duration,
}

impl Writer {
    /// Sends the appends, again if need be, until it is known what became of each or the time is over.
    pub(super) async fn settle(&self, entries: Vec<Entry>) {
        let effort = Effort::new(self.patience);
        self.settle_batch(Batch { entries, effort, one_by_one: false, held: None }).await;
    }

    async fn settle_batch(&self, mut batch: Batch) {
        while !batch.entries.is_empty() {
            let plan = batch.plan();
            let sent = self.send(&plan, batch.held.take()).await;
            let Plan { mut now, chains, .. } = plan;
            match sent {
                Ok(places) => now = self.appended(now, &places),
                Err(Fault::EventIdStored(_)) => {}
                Err(Fault::NoAnswer(source)) => {
                    let sources = shared(source, now.len());
                    now.iter_mut().zip(sources).for_each(|(entry, source)| entry.in_doubt(source));
                }
                Err(Fault::Again(source)) => {
                    if batch.effort.pause().await {
                        batch.put_back(now);
                    } else {
                        self.over(now, source);
                    }
                    continue;
                }
                // one of several is to blame, or keeps the others waiting
                Err(Fault::Refused(_) | Fault::Blocked(_)) if chains.len() > 1 => {
                    batch.put_back(now);
                    return self.settle_halves(batch).await;
                }
                Err(Fault::Blocked(_)) => {
                    batch.held = now.first().map(|entry| self.aside.set(&entry.append.stream));
                    batch.put_back(now);
                    continue;
                }
                Err(Fault::Refused(_)) if now.len() > 1 => {
                    batch.one_by_one = true;
                    batch.put_back(now);
                    continue;
                }
                Err(Fault::Refused(source)) => {
                    now.into_iter().zip(shared(source, 1)).for_each(|(entry, source)| entry.refused(source));
                    continue;
                }
                Err(fault) => {
                    self.over(now, fault.into_source());
                    continue;
                }
            }
            self.resolve(now, &mut batch).await;
        }
    }

    /// Settles both halves side by side: one may have to wait, the other one need not.
    fn settle_halves(&self, batch: Batch) -> BoxFuture<'_, ()> {
        let (left, right) = batch.halves();
        Box::pin(async move {
            tokio::join!(self.settle_batch(left), self.settle_batch(right));
        })
    }

    /// Sends one statement, and returns where it put the events, in order. An append of which there are none was
    /// refused: its stream is not where it is expected.
    async fn send(&self, plan: &Plan, held: Option<SetAside>) -> Result<Vec<Place>, Fault> {
        let statements = self.statements.appends(!self.listed.has_all(plan.new_events()));
        let rows = match plan.only_stream() {
            Some(stream) => self.send_alone(plan, stream, held, statements).await?,
            None => self.send_many(plan, statements).await?,
        };
        // stored, and the answer makes no sense: the records themselves will tell
        rows.iter().map(place).collect::<Result<_, _>>().map_err(Fault::NoAnswer)
    }

    /// Sends a statement that waits at most 100 ms for a row: then somebody keeps it.
    async fn send_many(&self, plan: &Plan, statements: &AppendStatements) -> Result<Vec<PgRow>, Fault> {
        let _lane = self.connections.lane().await?;
        self.connections.fetch_all(plan.query(statements)).await
    }

    /// Sends a statement for a single stream: one that waits for its row for as long as it takes, unless that would take
    /// the last lane before it is known that anyone keeps the row.
    async fn send_alone(
        &self,
        plan: &Plan,
        stream: &StreamId,
        mut held: Option<SetAside>,
        statements: &AppendStatements,
    ) -> Result<Vec<PgRow>, Fault> {
        let _lane = match (self.connections.free_patient_lane(), &held) {
            (Some(lane), _) => lane,
            (None, Some(_)) => self.connections.patient_lane().await?,
            (None, None) => return self.send_many(plan, statements).await,
        };
        let mut rows = pin!(self.connections.fetch_all(plan.claim(statements)));
        if let Ok(rows) = timeout(LONG, &mut rows).await {
            return rows;
        }
        held.get_or_insert_with(|| self.aside.set(stream));
        rows.await
    }

    /// Answers those whose events have places; returns the others.
    fn appended(&self, entries: Vec<Entry>, mut places: &[Place]) -> Vec<Entry> {
        if !places.is_empty() {
            self.appended.notify();
        }
        let mut open = Vec::new();
        for entry in entries {
            let events = &entry.append.events;
            match places.split_at_checked(events.len()) {
                Some((own, rest))
                    if own.iter().zip(events).all(|(place, event)| place.event_id == event.event_id()) =>
                {
                    places = rest;
                    self.listed.add_all(events);
                    entry.appended(own);
                }
                _ => open.push(entry),
            }
        }
        open
    }

    /// Finds out about appends that were not stored, or perhaps were; those that can be tried go back into the batch.
    async fn resolve(&self, open: Vec<Entry>, batch: &mut Batch) {
        if open.is_empty() {
            return;
        }
        let known = loop {
            match self.ask(&open).await {
                Ok(known) => break known,
                Err(source) if batch.effort.pause().await => tracing::debug!(source, "append not resolved yet"),
                Err(source) => return self.over(open, source),
            }
        };
        let asked = open.len();
        let again = self.judge(open, known);
        // where others were in the way, there is nothing to wait for
        if again.len() < asked || batch.effort.pause().await {
            batch.put_back(again);
        } else {
            self.over(again, StillRefused.into());
        }
    }

    /// Asks what the store holds of each append, in one snapshot.
    async fn ask(&self, open: &[Entry]) -> Result<Vec<Result<Known, ReadError>>, BoxError> {
        let appends = open.iter().map(|entry| &entry.append);
        let query = resolve::query(self.statements.resolve.clone(), appends.clone());
        let rows = self.connections.fetch_all(query).await.map_err(Fault::into_source)?;
        resolve::read(&rows, appends)
    }

    /// Answers those of whom it is known what became of them; returns those that can be tried.
    fn judge(&self, open: Vec<Entry>, known: Vec<Result<Known, ReadError>>) -> Vec<Entry> {
        let mut again: Vec<Entry> = Vec::new();
        let mut undecided: HashSet<StreamId> = HashSet::new();
        for (entry, known) in open.into_iter().zip(known) {
            let verdict = match known {
                Ok(known) => known.judge(&entry.append),
                Err(corrupt) => {
                    entry.refused(corrupt.into());
                    continue;
                }
            };
            match verdict {
                Ok(Verdict::Stored(records)) => {
                    self.appended.notify();
                    entry.answer(Ok(records));
                }
                Err(taken) => entry.answer(Err(taken)),
                // one before it in the stream may yet lead to the version it expects
                Ok(Verdict::Conflict(actual)) if !undecided.contains(&entry.append.stream) => {
                    self.signal_doubt(&entry);
                    entry.conflict(actual);
                }
                Ok(_) => {
                    undecided.insert(entry.append.stream.clone());
                    again.push(entry);
                }
            }
        }
        again
    }

    /// Answers appends that are not tried any more.
    fn over(&self, entries: Vec<Entry>, source: BoxError) {
        let sources = shared(source, entries.len());
        for (entry, source) in entries.into_iter().zip(sources) {
            self.signal_doubt(&entry);
            entry.over(source);
        }
    }

    /// What may be stored, readers are to look for.
    fn signal_doubt(&self, entry: &Entry) {
        if entry.is_in_doubt() {
            self.appended.notify();
        }
    }
}

/// Reads a row of `append.sql` or `append_many.sql`.
pub(super) fn place(row: &PgRow) -> Result<Place, BoxError> {
    let number = |column: usize| -> Result<u64, BoxError> { Ok(u64::try_from(row.try_get::<i64, _>(column)?)?) };
    let event_id = EventId::from(row.try_get::<Uuid, _>(0)?);
    let recorded_at = time_of(row.try_get_unchecked(3)?)?;
    Ok(Place { event_id, version: number(1)?.into(), position: Position::new(number(2)?), recorded_at })
}

/// Appends to be settled, in order.
#[derive(Debug)]
struct Batch {
    entries: Vec<Entry>,
    effort: Effort,
    /// Whether no two of them go out in one statement if they are for the same stream.
    one_by_one: bool,
    /// Somebody keeps the row of the first stream, which is alone in the next statement.
    held: Option<SetAside>,
}

impl Batch {
    /// Takes out what goes into the next statement.
    fn plan(&mut self) -> Plan {
        let mut plan = Plan::of(std::mem::take(&mut self.entries), self.one_by_one);
        self.entries = std::mem::take(&mut plan.later);
        plan
    }

    /// Puts back what was taken out, before what had to wait for it.
    fn put_back(&mut self, mut entries: Vec<Entry>) {
        entries.append(&mut self.entries);
        self.entries = entries;
    }

    /// Halves the batch between streams, so that the appends to one stay in order.
    fn halves(self) -> (Self, Self) {
        let mut streams: Vec<StreamId> = Vec::new();
        let mut seen = HashSet::new();
        streams.extend(self.entries.iter().map(|entry| entry.append.stream.clone()).filter(|s| seen.insert(s.clone())));
        let first: HashSet<_> = streams.drain(..streams.len() / 2).collect();
        let (left, right) = self.entries.into_iter().partition(|entry| first.contains(&entry.append.stream));
        let half = |entries| Self { entries, effort: self.effort.clone(), one_by_one: self.one_by_one, held: None };
        (half(left), half(right))
    }
}
