//! Reading all events in position order, which is the order of their commits.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent, StreamId, Version,
    port::{AppendSignal, FeedFilter, MissingEvent, ReadError, ReadFeed, RecordStream},
    support::{FeedVersions, Page, paged},
};
use rusqlite::{Connection, params};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    filter::FilterParameters,
    missing_events,
    query::{QueryError, query_value},
    row::{PAGE_EVENTS_MAX, from_micros, query_page, stream_columns, to_position},
    store::SqliteEventStore,
};

/// Maximum number of positions that one page searches: a search for rare events must not keep a connection for long.
const SEARCH_POSITIONS_MAX: i64 = 8_192;

#[async_trait]
impl ReadFeed for SqliteEventStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        if filter.is_all() {
            return paged((after, FeedVersions::new(after)), move |(after, versions)| {
                self.readers().read(move |connection| load_page(connection, after, through, versions))
            });
        }
        let wanted = FilterParameters::new(filter);
        paged(after, move |after| {
            let wanted = wanted.clone();
            self.readers().read(move |connection| load_filtered_page(connection, after, through, &wanted))
        })
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.readers().read(load_head).await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        let wanted = FilterParameters::new(filter);
        self.readers().read(move |connection| count_matching(connection, after, through, &wanted)).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
        self.readers().read(move |connection| load_first_recorded_after(connection, after)).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        missing_events::find_missing_event(self.readers(), stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.readers().read(load_store_id).await
    }

    fn appended(&self) -> &AppendSignal {
        self.writer().appended()
    }
}

fn load_page(
    connection: &Connection,
    after: Position,
    through: Position,
    mut versions: FeedVersions,
) -> Result<Page<(Position, FeedVersions)>, QueryError> {
    let parameters = (after.as_i64(), through.as_i64(), PAGE_EVENTS_MAX);
    let (mut events, mut more) = query_page(connection, include_str!("sql/read_feed.sql"), parameters)?;
    if let Some(first) = events.first().and_then(RecordedEvent::position) {
        for stream in versions.late_starts(&events) {
            let through: Option<i64> =
                query_value(connection, include_str!("sql/archived.sql"), stream_columns(&stream))?;
            versions.note_archived(stream, Version::new(through.unwrap_or_default().unsigned_abs()));
        }
        let has_former = query_value(connection, include_str!("sql/has_former.sql"), [first.as_i64()])?;
        more |= versions.end_before_gap(&mut events, has_former.unwrap_or_default())?;
    }
    let last = events.last().and_then(RecordedEvent::position);
    Ok((events, last.filter(|_| more).map(|last| (last, versions))))
}

/// Loads the matching events among the next positions up to `end`, and the position to search on from.
fn load_filtered_page(
    connection: &Connection,
    after: Position,
    end: Position,
    filter: &FilterParameters,
) -> Result<Page<Position>, QueryError> {
    // there is no event to search for beyond the last one
    let end = end.min(load_head(connection)?).as_i64();
    let through = after.as_i64().saturating_add(SEARCH_POSITIONS_MAX).min(end);
    let FilterParameters { aggregate_types, event_types, .. } = filter;
    let parameters = params![after.as_i64(), through, aggregate_types, event_types, filter.tenant(), PAGE_EVENTS_MAX];
    let (events, more) = query_page(connection, include_str!("sql/read_feed_filtered.sql"), parameters)?;
    let next = match events.last().and_then(RecordedEvent::position) {
        Some(last) if more => Some(last),
        _ => (through < end).then(|| Position::new(through.unsigned_abs())),
    };
    Ok((events, next))
}

fn count_matching(
    connection: &Connection,
    after: Position,
    through: Position,
    filter: &FilterParameters,
) -> Result<u64, QueryError> {
    let FilterParameters { aggregate_types, event_types, .. } = filter;
    let parameters = params![after.as_i64(), through.as_i64(), aggregate_types, event_types, filter.tenant()];
    let count: Option<i64> = query_value(connection, include_str!("sql/count_events.sql"), parameters)?;
    Ok(count.unwrap_or(0).unsigned_abs())
}

fn load_head(connection: &Connection) -> Result<Position, QueryError> {
    let head: i64 = query_value(connection, include_str!("sql/head.sql"), [])?.unwrap_or(0);
    Ok(to_position(head, || format!("position {head}"))?)
}

fn load_first_recorded_after(connection: &Connection, after: Position) -> Result<Option<OffsetDateTime>, QueryError> {
    let micros = query_value(connection, include_str!("sql/first_recorded_after.sql"), [after.as_i64()])?;
    let recorded_at = micros.map(from_micros).transpose();
    let corrupt = |error| ReadError::corrupt(format!("the first event after position {after}"), error);
    Ok(recorded_at.map_err(corrupt)?)
}

fn load_store_id(connection: &Connection) -> Result<Uuid, QueryError> {
    let id: Option<Vec<u8>> = query_value(connection, include_str!("sql/store_id.sql"), [])?;
    let id = Uuid::from_slice(&id.unwrap_or_default());
    Ok(id.map_err(|error| ReadError::corrupt("the store's id", error))?)
}

#[cfg(test)]
mod tests {
    use eventbus::Name;

    use super::*;
    use crate::{config::SqliteEventStoreConfig, connection::open_writer, location::DatabaseLocation};

    const RARE: Name = Name::from_static("Rare");

    /// Three rare events among very many common ones, and after a gap.
    fn database() -> Connection {
        let connection = open_writer(&DatabaseLocation::new_memory(), &SqliteEventStoreConfig::default()).unwrap();
        let events = "
            INSERT INTO eventbus_streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
            VALUES (1, 30000, 0, zeroblob(16), 'a', 'Account');
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
            INSERT INTO eventbus_events (position, stream_no, version, occurred_at, recorded_at, event_id,
                correlation_id, schema_version, event_type, payload)
            SELECT CASE WHEN i > 25000 THEN i + 1000000 ELSE i END, 1, i, 0, 0, randomblob(16), zeroblob(16), 1,
                CASE WHEN i IN (20000, 24999, 30000) THEN 'Rare' ELSE 'Common' END, '{}'
            FROM n";
        connection.execute_batch(events).unwrap();
        connection
    }

    #[test]
    fn what_is_rare_is_found_in_many_short_searches() {
        let (connection, wanted) = (database(), FilterParameters::new(&FeedFilter::all().event_types([RARE])));
        let (mut found, mut pages, mut from) = (Vec::new(), 0, Some(Position::START));
        while let Some(after) = from {
            let (events, next) = load_filtered_page(&connection, after, Position::new(u64::MAX), &wanted).unwrap();
            assert!(next.is_none_or(|next| next > after));
            found.extend(events.iter().filter_map(RecordedEvent::position).map(Position::get));
            (pages, from) = (pages + 1, next);
        }
        assert_eq!(found, [20_000, 24_999, 1_030_000]);
        assert!(pages > 3, "{pages}");
        let through = Position::new(24_999);
        assert_eq!(count_matching(&connection, Position::new(20_000), through, &wanted).unwrap(), 1);
    }

    /// A check that scans or sorts the events would take longer the more of them there are.
    #[test]
    fn versions_are_walked_along_their_index() {
        let connection = database();
        connection.execute_batch("ANALYZE").unwrap();
        for (sql, range) in [
            (include_str!("sql/count_versions.sql"), "stream_no=? AND version>? AND version<?"),
            (include_str!("sql/read_versions.sql"), "stream_no=? AND version>? AND version<?"),
            (include_str!("sql/has_former.sql"), "stream_no=? AND version=?"),
        ] {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps: Vec<String> = plan.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            let along_the_index = format!("USING COVERING INDEX sqlite_autoindex_eventbus_events_1 ({range})");
            assert!(steps.iter().any(|step| step.ends_with(&along_the_index)), "{steps:?}");
            let is_other = |step: &String| step.contains("TEMP B-TREE") || step.starts_with("SCAN eventbus");
            assert!(!steps.iter().any(is_other), "{steps:?}");
        }
    }

    #[test]
    fn filters_walk_the_positions() {
        let connection = database();
        connection.execute_batch("ANALYZE").unwrap();
        for sql in [include_str!("sql/read_feed_filtered.sql"), include_str!("sql/count_events.sql")] {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps: Vec<String> = plan.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            let by_position = "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
            assert!(steps.iter().any(|step| step == by_position), "{steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER")), "{steps:?}");
        }
    }
}
