//! The rows of tags: how many events of each type have a tag, and which events.
//!
//! Invariant: the transaction that stores an event counts its tags. SQLite has one writer at a time, so the counts that
//! a transaction compares after it began to write stay the same until its commit, even for a tag without a row.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    BoxError, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    event::Tag,
    port::ReadError,
    store::{Boundary, BoundaryCondition, FURTHER_TAGS},
};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::Value;

use crate::{
    query::{QueryError, execute, query_rows},
    row,
};

/// The row of a tag.
#[derive(Debug, Default)]
pub(crate) struct TagRow {
    /// `None` if the table has no such row.
    number: Option<i64>,
    /// How many events of each type have the tag, and how often they were given a [further one](FURTHER_TAGS).
    counts: BTreeMap<String, u64>,
}

impl TagRow {
    /// Finds the row of a tag; an empty one if there is none.
    ///
    /// # Errors
    /// The inner error is about the row, which is damaged; the outer one is about the database.
    pub(crate) fn find(connection: &Connection, tenant: Uuid, tag: &Tag) -> rusqlite::Result<Result<Self, ReadError>> {
        let mut statement = connection.prepare_cached(include_str!("sql/find_tag.sql"))?;
        let row = (tag.as_str(), tenant.into_bytes());
        let found = statement.query_row(row, |row| Ok(Self::decode(row))).optional()?;
        Ok(found.unwrap_or_else(|| Ok(Self::default())))
    }

    /// Finds the rows of a tag of all tenants, or of one, by the bytes of their tenants.
    pub(crate) fn find_all(
        connection: &Connection,
        tenant: Option<Uuid>,
        tag: &Tag,
    ) -> Result<Vec<(Vec<u8>, Self)>, QueryError> {
        if let Some(tenant) = tenant {
            let found = Self::find(connection, tenant, tag)??;
            return Ok(vec![(tenant.into_bytes().into(), found)]);
        }
        let decode = |row: &Row<'_>| -> Result<_, QueryError> { Ok((row.get(2)?, Self::decode(row)?)) };
        query_rows(connection, include_str!("sql/find_tag_of_any_tenant.sql"), [tag.as_str()], decode)
    }

    /// Decodes the first columns of `sql/find_tag.sql`. An error does not show the tag, which may be personal.
    fn decode(row: &Row<'_>) -> Result<Self, ReadError> {
        let number: i64 = row.get(0).map_err(|source| ReadError::corrupt("the number of a tag", source))?;
        let counts = || -> Result<_, BoxError> { Ok(serde_json::from_str(&row.get::<_, String>(1)?)?) };
        let counts = counts().map_err(|source| ReadError::corrupt(format!("the counts of tag {number}"), source))?;
        Ok(Self { number: Some(number), counts })
    }

    /// The number of the tag; `None` if no event ever had it.
    pub(crate) const fn number(&self) -> Option<i64> {
        self.number
    }

    /// Returns how many events have the tag.
    pub(crate) fn total(&self) -> u64 {
        let counts = self.counts.iter().filter(|(name, _)| *name != FURTHER_TAGS);
        counts.fold(0, |total, (_, count)| total.saturating_add(*count))
    }

    /// Returns the sum of the counts of these names.
    fn count_of<'n>(&self, names: impl Iterator<Item = &'n str>) -> u64 {
        names.filter_map(|name| self.counts.get(name)).fold(0, |total, count| total.saturating_add(*count))
    }

    fn count(&mut self, name: &str) {
        match self.counts.get_mut(name) {
            Some(count) => *count = count.saturating_add(1),
            None => drop(self.counts.insert(name.to_owned(), 1)),
        }
    }

    /// Writes the row, and notes that the events at these positions now have the tag.
    fn save(
        &self,
        connection: &Connection,
        tenant: Uuid,
        tag: &Tag,
        events: impl IntoIterator<Item = Position>,
    ) -> rusqlite::Result<()> {
        let counts: Value = self.counts.iter().map(|(event_type, count)| (event_type.as_str(), *count)).collect();
        let counts = counts.to_string();
        let number = match self.number {
            Some(number) => {
                execute(connection, include_str!("sql/save_counts.sql"), (number, counts))?;
                number
            }
            None => {
                let row = (tag.as_str(), tenant.into_bytes(), counts);
                execute(connection, include_str!("sql/insert_tag.sql"), row)?;
                connection.last_insert_rowid()
            }
        };
        for position in events {
            execute(connection, include_str!("sql/insert_tagged_event.sql"), (number, position.as_i64()))?;
        }
        Ok(())
    }
}

/// The rows of the tags of an append's events, with these events counted.
pub(crate) struct TagChanges<'e> {
    tenant: Uuid,
    /// With the places of the events that have the tag.
    rows: BTreeMap<&'e Tag, (TagRow, Vec<u64>)>,
}

impl<'e> TagChanges<'e> {
    /// Reads the rows, and counts the events.
    ///
    /// # Errors
    /// The inner error is about a row, which is damaged; the outer one is about the database.
    pub(crate) fn count(
        connection: &Connection,
        stream: &StreamId,
        events: &'e [NewEvent],
    ) -> rusqlite::Result<Result<Self, ReadError>> {
        let mut changes = Self { tenant: stream.tenant_or_nil(), rows: BTreeMap::new() };
        for (place, event) in (0..).zip(events) {
            for tag in event.tags() {
                if !changes.rows.contains_key(tag) {
                    match TagRow::find(connection, changes.tenant, tag)? {
                        Ok(row) => drop(changes.rows.insert(tag, (row, Vec::new()))),
                        Err(corrupt) => return Ok(Err(corrupt)),
                    }
                }
                if let Some((row, places)) = changes.rows.get_mut(tag) {
                    row.count(event.event_type());
                    places.push(place);
                }
            }
        }
        Ok(Ok(changes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the rows; the events have the positions from `first` on.
    pub(crate) fn save(&self, connection: &Connection, first: Position) -> rusqlite::Result<()> {
        let position = |place: u64| Position::new(first.get() + place);
        for (tag, (row, places)) in &self.rows {
            row.save(connection, self.tenant, tag, places.iter().map(|place| position(*place)))?;
        }
        Ok(())
    }
}

/// A stored event, and its tags.
pub(crate) struct StoredTags {
    position: Position,
    event_type: String,
    pub(crate) tags: BTreeSet<Tag>,
}

impl StoredTags {
    /// Finds an event by its stream, version and id.
    pub(crate) fn find(connection: &Connection, event: &RecordedEvent) -> Result<Option<Self>, QueryError> {
        let (aggregate_id, aggregate_type, tenant) = row::stream_columns(event.metadata().stream());
        let id = event.metadata().event_id().as_uuid().into_bytes();
        let parameters = (aggregate_id, aggregate_type, tenant, event.version().as_i64(), id);
        let decode = |row: &Row<'_>| -> Result<_, QueryError> {
            let position = row::to_position(row.get(0)?, || "the position of an event".into())?;
            let tags = || -> Result<BTreeSet<Tag>, BoxError> {
                let tags: Vec<String> =
                    row.get::<_, Option<String>>(2)?.map_or(Ok(Vec::new()), |json| serde_json::from_str(&json))?;
                tags.iter().map(|tag| Ok(Tag::from_stored(tag)?)).collect()
            };
            let tags =
                tags().map_err(|source| ReadError::corrupt(format!("the tags of position {position}"), source))?;
            Ok(Self { position, event_type: row.get(1)?, tags })
        };
        Ok(query_rows(connection, include_str!("sql/tags_of_event.sql"), parameters, decode)?.pop())
    }

    /// Adds a tag that the event does not have, and counts it.
    pub(crate) fn add(mut self, connection: &Connection, tenant: Uuid, tag: &Tag) -> Result<(), QueryError> {
        for known in &self.tags {
            let mut row = TagRow::find(connection, tenant, known)??;
            row.count(FURTHER_TAGS);
            row.save(connection, tenant, known, [])?;
        }
        let mut row = TagRow::find(connection, tenant, tag)??;
        row.count(&self.event_type);
        row.save(connection, tenant, tag, [self.position])?;
        self.tags.insert(tag.clone());
        let tags = (self.position.as_i64(), row::to_json_array(&self.tags));
        execute(connection, include_str!("sql/save_tags.sql"), tags)?;
        Ok(())
    }
}

/// Returns the condition that no event is added to a boundary from now on.
pub(crate) fn count_tagged(connection: &Connection, boundary: Boundary) -> Result<BoundaryCondition, QueryError> {
    let tenant = boundary.tenant_id.unwrap_or_default();
    // one by one, as the caller reads the events after the last of them
    let count = |tag| Ok(TagRow::find(connection, tenant, tag)??.count_of(boundary.counted_names()));
    let counts = boundary.tags().into_iter().map(count).collect::<Result<_, QueryError>>()?;
    Ok(BoundaryCondition { boundary, counts })
}

/// Returns `true` if the boundary of a condition may have further events.
pub(crate) fn is_moved(connection: &Connection, condition: &BoundaryCondition) -> Result<bool, QueryError> {
    let actual = count_tagged(connection, condition.boundary.clone())?;
    let counts: BTreeMap<_, _> = actual.tag_counts().collect();
    Ok(condition.is_moved(|tag| counts.get(tag).copied().unwrap_or_default()))
}
