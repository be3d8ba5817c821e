//! Appending to one stream, inside the transaction of a batch.
//!
//! The hot path reads the stream's row, inserts and updates the row. Only a refused append looks its event ids up, to
//! see whether it repeats a stored append.

use std::sync::Arc;

use eventbus::{
    BoxError, EventId, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Version,
    clock::SharedClock,
    event::UniqueChange,
    port::{self, AppendError, ReadError},
    support::{ListedEventTypes, check_events, check_ids, first_result, unique_changes},
};
use rusqlite::{Connection, OptionalExtension as _, Row};
use time::OffsetDateTime;

use crate::{
    error::is_caused_by_events,
    query::{QueryError, execute, query_rows, query_value},
    row,
    tag_rows::TagChanges,
    value_rows,
};

/// An append with valid events.
#[derive(Debug)]
pub(crate) struct CheckedAppend {
    stream: StreamId,
    expected: ExpectedVersion,
    events: Vec<NewEvent>,
    unique: Vec<UniqueChange>,
    clock: SharedClock,
    listed_types: Arc<ListedEventTypes>,
}

/// Outcome of an append, if its transaction commits.
#[derive(Debug)]
pub(crate) enum AppendOutcome {
    /// The events follow `previous_version` and begin at `first_position`; `has_new_types` if the append lists event
    /// types.
    Appended { previous_version: Version, first_position: Position, recorded_at: OffsetDateTime, has_new_types: bool },
    /// An earlier append stored the events.
    AlreadyStored(Vec<RecordedEvent>),
}

impl CheckedAppend {
    /// Checks an append; `None` if it has no events.
    pub(crate) fn check(
        append: port::Append,
        clock: &SharedClock,
        listed_types: &Arc<ListedEventTypes>,
    ) -> Result<Option<Self>, AppendError> {
        let port::Append { stream, expected, events } = append;
        if events.is_empty() {
            return Ok(None);
        }
        check_ids(&stream, &events)?;
        check_events(&stream, &events)?;
        let (clock, listed_types) = (clock.clone(), Arc::clone(listed_types));
        let unique = unique_changes(&events);
        Ok(Some(Self { stream, expected, events, unique, clock, listed_types }))
    }

    pub(crate) const fn stream(&self) -> &StreamId {
        &self.stream
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Stores the events, or leaves no trace of them in the transaction.
    ///
    /// # Errors
    /// The inner error is about this append alone. The outer one is about the transaction: the caller must roll it
    /// back.
    pub(crate) fn run(&self, connection: &Connection) -> rusqlite::Result<Result<AppendOutcome, AppendError>> {
        let stream = match StreamRow::find(connection, &self.stream)? {
            Ok(stream) => stream,
            Err(corrupt) => return Ok(Err(self.refused_error(corrupt))),
        };
        let actual = stream.as_ref().map_or(Version::NONE, |stream| stream.version);
        if !self.expected.matches(actual) {
            return self.resolve(connection, || AppendError::Conflict {
                stream: self.stream.clone(),
                expected: self.expected,
                actual,
            });
        }
        let number = stream.as_ref().map(|stream| stream.number);
        if let Some(taken) = value_rows::find_taken(connection, &self.stream, number, &self.unique)? {
            let (stream, name) = (self.stream.clone(), taken.name().clone());
            return self.resolve(connection, || AppendError::Taken { stream, name });
        }
        let tags = match TagChanges::count(connection, &self.stream, &self.events)? {
            Ok(tags) => tags,
            Err(corrupt) => return self.resolve(connection, || self.refused_error(corrupt)),
        };
        let now = self.clock.now();
        let recorded_at = stream.as_ref().map_or(now, |stream| stream.recorded_at.max(now));
        let lists = !self.listed_types.has_all(&self.events);
        match self.insert_atomically(connection, stream.as_ref(), recorded_at, &tags, lists) {
            Ok(first) => Ok(Ok(AppendOutcome::Appended {
                previous_version: actual,
                first_position: first,
                recorded_at,
                has_new_types: lists,
            })),
            Err(error) if is_caused_by_events(&error) && !connection.is_autocommit() => {
                self.resolve(connection, || self.refused_error(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Inserts all events and the row of the stream, or none of them. The events come first, so that a single event
    /// that fails leaves no trace; several need a savepoint.
    fn insert_atomically(
        &self,
        connection: &Connection,
        stream: Option<&StreamRow>,
        recorded_at: OffsetDateTime,
        tags: &TagChanges<'_>,
        lists: bool,
    ) -> rusqlite::Result<Position> {
        if self.events.len() == 1 && self.unique.is_empty() && tags.is_empty() && !lists {
            return self.insert(connection, stream, recorded_at, tags, lists);
        }
        execute(connection, "SAVEPOINT append", [])?;
        let inserted = self.insert(connection, stream, recorded_at, tags, lists);
        if inserted.is_err() && !connection.is_autocommit() {
            execute(connection, "ROLLBACK TO append", [])?;
        }
        if !connection.is_autocommit() {
            execute(connection, "RELEASE append", [])?;
        }
        inserted
    }

    fn insert(
        &self,
        connection: &Connection,
        stream: Option<&StreamRow>,
        recorded_at: OffsetDateTime,
        tags: &TagChanges<'_>,
        lists: bool,
    ) -> rusqlite::Result<Position> {
        let micros = row::to_micros(recorded_at);
        if let Some(&StreamRow { number, version, .. }) = stream {
            let first = self.insert_events(connection, number, version, recorded_at, lists)?;
            let version = version.plus(self.events.len()).as_i64();
            execute(connection, include_str!("sql/advance_stream.sql"), (number, version, micros))?;
            value_rows::make_changes(connection, &self.stream, number, &self.unique)?;
            tags.save(connection, first)?;
            return Ok(first);
        }
        let number: i64 = query_value(connection, include_str!("sql/next_stream_no.sql"), [])?.unwrap_or(1);
        let first = self.insert_events(connection, number, Version::NONE, recorded_at, lists)?;
        let (id, of_type, tenant) = row::stream_columns(&self.stream);
        let version = Version::NONE.plus(self.events.len()).as_i64();
        execute(connection, include_str!("sql/insert_stream.sql"), (number, version, micros, &tenant, id, of_type))?;
        value_rows::make_changes(connection, &self.stream, number, &self.unique)?;
        tags.save(connection, first)?;
        Ok(first)
    }

    /// Inserts the events; their positions follow each other, as no other connection writes meanwhile.
    fn insert_events(
        &self,
        connection: &Connection,
        stream_no: i64,
        after: Version,
        recorded_at: OffsetDateTime,
        lists: bool,
    ) -> rusqlite::Result<Position> {
        let mut first = None;
        for (i, event) in self.events.iter().enumerate() {
            let position = row::insert_event(connection, stream_no, after.plus(i + 1), event, recorded_at)?;
            first.get_or_insert(position);
            if lists {
                row::insert_type(connection, event, position)?;
            }
        }
        Ok(first.unwrap_or_default())
    }

    /// Decides about an append that cannot be stored: it is a repeat, it uses stored event ids, or else the result is
    /// `otherwise`.
    fn resolve(
        &self,
        connection: &Connection,
        otherwise: impl FnOnce() -> AppendError,
    ) -> rusqlite::Result<Result<AppendOutcome, AppendError>> {
        let ids: Vec<EventId> = self.events.iter().map(NewEvent::event_id).collect();
        let read = |row: &Row<'_>| -> rusqlite::Result<_> { Ok(row::read_event(row)) };
        let (aggregate_id, aggregate_type, tenant) = row::stream_columns(&self.stream);
        let mut found = Vec::new();
        for id in &ids {
            let parameters = (aggregate_id, aggregate_type, &tenant, id.as_uuid().into_bytes());
            let event = query_rows(connection, include_str!("sql/event_by_id.sql"), parameters, read)?;
            match event.into_iter().next().transpose() {
                Ok(event) => found.extend(event),
                Err(corrupt) => return Ok(Err(self.refused_error(ReadError::from(corrupt)))),
            }
        }
        Ok(match first_result(&self.stream, &ids, found) {
            Ok(Some(known)) => Ok(AppendOutcome::AlreadyStored(known)),
            Ok(None) => Err(otherwise()),
            Err(taken) => Err(taken),
        })
    }

    pub(crate) fn refused_error(&self, source: impl Into<BoxError>) -> AppendError {
        AppendError::Refused { stream: self.stream.clone(), source: source.into() }
    }

    /// Marks the types of the events as listed; for after the commit.
    pub(crate) fn mark_types_listed(&self) {
        self.listed_types.add_all(&self.events);
    }

    /// Returns the records; for after the commit.
    pub(crate) fn into_records(self, outcome: AppendOutcome) -> Vec<RecordedEvent> {
        let (after, first, recorded_at) = match outcome {
            AppendOutcome::AlreadyStored(known) => return known,
            AppendOutcome::Appended { previous_version: after, first_position: first, recorded_at, .. } => {
                (after, first, recorded_at)
            }
        };
        let place = |(i, event): (usize, NewEvent)| {
            let position = Position::new(first.get() + i as u64);
            let record = event.recorded_as(self.stream.clone(), after.plus(i + 1), Some(position));
            record.with_recorded_at(Some(recorded_at))
        };
        self.events.into_iter().enumerate().map(place).collect()
    }
}

/// The row of a stream: its number and its last event.
#[derive(Debug)]
pub(crate) struct StreamRow {
    pub(crate) number: i64,
    pub(crate) version: Version,
    recorded_at: OffsetDateTime,
}

impl StreamRow {
    /// Finds the row of a stream.
    ///
    /// # Errors
    /// The inner error is about the row, which is damaged; the outer one is about the database.
    pub(crate) fn find(
        connection: &Connection,
        stream: &StreamId,
    ) -> rusqlite::Result<Result<Option<Self>, ReadError>> {
        let mut statement = connection.prepare_cached(include_str!("sql/find_stream.sql"))?;
        let columns = statement.query_row(row::stream_columns(stream), |row| row.try_into()).optional()?;
        let found = columns.map(Self::decode).transpose();
        Ok(found.map_err(|source| ReadError::corrupt(format!("stream `{stream}`"), source)))
    }

    /// Decodes the columns of `sql/find_stream.sql`.
    fn decode((number, version, recorded_at): (i64, i64, i64)) -> Result<Self, BoxError> {
        let version = u64::try_from(version).map_err(|_| format!("its version is {version}"))?;
        let recorded_at = row::from_micros(recorded_at).map_err(|error| format!("its recorded time: {error}"))?;
        Ok(Self { number, version: Version::new(version), recorded_at })
    }
}

/// Returns the version of a stream.
pub(crate) fn stream_version(connection: &Connection, stream: &StreamId) -> Result<Version, QueryError> {
    Ok(StreamRow::find(connection, stream)??.map_or(Version::NONE, |stream| stream.version))
}
