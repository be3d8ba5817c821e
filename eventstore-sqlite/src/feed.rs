//! Reading all events in position order, which is the order of their commits.

use std::sync::Arc;

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent, StreamId, Version,
    port::{AppendSignal, FeedFilter, MissingEvent, ReadError, ReadFeed, RecordStream},
    store::VisitFeedEvent,
    support::{FeedVersions, Page, collect_page, paged, paged_ahead},
};
use rusqlite::{Connection, params};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    filter::FilterParameters,
    missing_events,
    query::{QueryError, query_rows, query_value},
    readers::Readers,
    row::{PAGE_EVENTS_MAX, from_micros, query_page, read_event, stream_columns},
    search::{SEARCH_POSITIONS_MAX, load_head},
    store::SqliteEventStore,
    tagged_positions::TaggedPositions,
    visit,
};

#[async_trait]
impl ReadFeed for SqliteEventStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        if filter.is_all() {
            return read_pages(self, (after, FeedVersions::new(after)), move |connection, (after, versions)| {
                load_page(connection, after, through, versions)
            });
        }
        let wanted = FilterParameters::new(filter);
        read_pages(self, after, move |connection, after| load_filtered_page(connection, after, through, &wanted))
    }

    async fn visit_feed(
        &self,
        after: Position,
        through: Position,
        filter: &FeedFilter,
        visit: &mut VisitFeedEvent<'_>,
    ) -> Result<(), ReadError> {
        visit::visit_feed(self, after, through, filter, visit).await
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

/// Reads pages, one ahead if the store has connections for reads: a task that read ahead on the write connection would
/// wait for the transaction of its reader.
fn read_pages<C: Send + 'static>(
    store: &SqliteEventStore,
    start: C,
    load: impl Fn(&Connection, C) -> Result<Page<C>, QueryError> + Send + Sync + 'static,
) -> RecordStream<'static> {
    let (inner, load) = (Arc::clone(store.inner()), Arc::new(load));
    let read_page = move |cursor| {
        let (inner, load) = (Arc::clone(&inner), Arc::clone(&load));
        async move { inner.readers().read(move |connection| load(connection, cursor)).await }
    };
    match store.readers() {
        Readers::Pooled(_) => paged_ahead(start, read_page),
        Readers::OnWriter(_) => paged(start, read_page),
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

/// Loads the matching events among the next positions up to `end`, and the position from which to search on.
fn load_filtered_page(
    connection: &Connection,
    after: Position,
    end: Position,
    filter: &FilterParameters,
) -> Result<Page<Position>, QueryError> {
    let end = end.min(load_head(connection)?);
    if filter.tags.is_some() {
        return load_tagged_page(connection, after, end, filter);
    }
    let end = end.as_i64();
    let through = after.as_i64().saturating_add(SEARCH_POSITIONS_MAX).min(end);
    let FilterParameters { aggregate_types, event_types, slots, .. } = filter;
    let (after_number, tenant) = (after.as_i64(), filter.tenant());
    let parameters = params![after_number, through, aggregate_types, event_types, tenant, PAGE_EVENTS_MAX, slots];
    let (events, more) = query_page(connection, include_str!("sql/read_feed_filtered.sql"), parameters)?;
    let next = match events.last().and_then(RecordedEvent::position) {
        Some(last) if more => Some(last),
        _ => (through < end).then(|| Position::new(through.unsigned_abs())),
    };
    Ok((events, next))
}

/// Loads the matching events among the next ones that have wanted tags, and the position from which to search on.
fn load_tagged_page(
    connection: &Connection,
    after: Position,
    through: Position,
    filter: &FilterParameters,
) -> Result<Page<Position>, QueryError> {
    let mut positions = TaggedPositions::find(connection, after, through, filter)?;
    let (mut searched, mut searched_through) = (0, after);
    let rows = std::iter::from_fn(|| {
        while searched < SEARCH_POSITIONS_MAX {
            let found = match positions.next() {
                Ok(found) => found?,
                Err(error) => return Some(Err(error)),
            };
            (searched, searched_through) = (searched + 1, found.position);
            if found.is_wanted {
                let event = load_event(connection, found.position).transpose();
                if event.is_some() {
                    return event;
                }
            }
        }
        None
    });
    let (events, more) = collect_page(rows.take(PAGE_EVENTS_MAX as usize), PAGE_EVENTS_MAX as usize)?;
    let next = match events.last().and_then(RecordedEvent::position) {
        Some(last) if more => Some(last),
        _ => (searched == SEARCH_POSITIONS_MAX).then_some(searched_through),
    };
    Ok((events, next))
}

fn load_event(connection: &Connection, position: Position) -> Result<Option<RecordedEvent>, QueryError> {
    let parameters = (position.as_i64() - 1, position.as_i64(), 1);
    Ok(query_rows(connection, include_str!("sql/read_feed.sql"), parameters, read_event)?.pop())
}

fn count_matching(
    connection: &Connection,
    after: Position,
    through: Position,
    filter: &FilterParameters,
) -> Result<u64, QueryError> {
    if filter.tags.is_some() {
        let through = through.min(load_head(connection)?);
        let mut positions = TaggedPositions::find(connection, after, through, filter)?;
        let mut count = 0;
        while let Some(found) = positions.next()? {
            count += u64::from(found.is_wanted);
        }
        return Ok(count);
    }
    let FilterParameters { aggregate_types, event_types, slots, .. } = filter;
    let parameters = params![after.as_i64(), through.as_i64(), aggregate_types, event_types, filter.tenant(), slots];
    let count: Option<i64> = query_value(connection, include_str!("sql/count_events.sql"), parameters)?;
    Ok(count.unwrap_or(0).unsigned_abs())
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
    use std::collections::BTreeSet;

    use eventbus::{Name, event::Tag};

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

    /// Gives each event the tag 1, the rare ones and every tenth the tag 2, every twentieth from 10,000 on the tag
    /// 3, and every seventh the tag 4.
    fn tag_events(connection: &Connection) {
        let tags = "
            INSERT INTO eventbus_tags (tag_no, tag, tenant_id, counts) VALUES
                (1, 'a:1', zeroblob(16), '{\"Common\":29997,\"Rare\":3}'),
                (2, 'b:1', zeroblob(16), '{\"Common\":2999,\"Rare\":3}'),
                (3, 'c:1', zeroblob(16), '{\"Common\":999,\"Rare\":2}'),
                (4, 'd:1', zeroblob(16), '{\"Common\":4285}');
            INSERT INTO eventbus_tagged_events SELECT 1, position FROM eventbus_events;
            INSERT INTO eventbus_tagged_events SELECT 2, position FROM eventbus_events
            WHERE version % 10 = 0 OR event_type = 'Rare';
            INSERT INTO eventbus_tagged_events SELECT 3, position FROM eventbus_events
            WHERE version >= 10000 AND version % 20 = 0;
            INSERT INTO eventbus_tagged_events SELECT 4, position FROM eventbus_events WHERE version % 7 = 0";
        connection.execute_batch(tags).unwrap();
    }

    fn set(tags: &[&str]) -> BTreeSet<Tag> {
        tags.iter().map(|tag| Tag::from_stored(tag).unwrap()).collect()
    }

    /// Reads all pages; returns the positions, and the number of pages.
    fn read_pages(connection: &Connection, filter: &FeedFilter) -> (Vec<u64>, usize) {
        let (wanted, all) = (FilterParameters::new(filter), Position::new(u64::MAX));
        let (mut found, mut pages, mut from) = (Vec::new(), 0, Some(Position::START));
        while let Some(after) = from {
            let (events, next) = load_filtered_page(connection, after, all, &wanted).unwrap();
            assert!(next.is_none_or(|next| next > after));
            found.extend(events.iter().filter_map(RecordedEvent::position).map(Position::get));
            (pages, from) = (pages + 1, next);
        }
        let count = count_matching(connection, Position::START, all, &wanted).unwrap();
        assert_eq!(count, found.len() as u64);
        (found, pages)
    }

    #[test]
    fn sets_of_tags_are_searched_along_their_rarest_tags() {
        let connection = database();
        tag_events(&connection);
        let all = FeedFilter::all();
        // rare among all events: many short searches
        let (found, pages) = read_pages(&connection, &all.clone().tagged(set(&["a:1"])).event_types([RARE]));
        assert_eq!(found, [20_000, 24_999, 1_030_000]);
        assert_eq!(pages, 4, "30,000 events");
        // along the tag of 1,001 events, not along the one of 30,000
        let (found, pages) = read_pages(&connection, &all.clone().tagged(set(&["a:1", "c:1"])).event_types([RARE]));
        assert_eq!((found, pages), (vec![20_000, 1_030_000], 1));
        let (found, pages) = read_pages(&connection, &all.clone().tagged(set(&["b:1", "c:1"])));
        assert_eq!((found.len(), pages), (1_001, 2), "1,000 events a page");
        assert!(found.is_sorted_by(|one, next| one < next));
        // an event in several sets comes once, wherever the walks of the sets read their next events
        let sets = [set(&["b:1"]), set(&["c:1"]), set(&["a:1", "c:1"]), set(&["a:1", "none:1"])];
        let (found, _) = read_pages(&connection, &all.clone().tagged_any(sets));
        assert_eq!(found.len(), 3_001);
        assert!(found.is_sorted_by(|one, next| one < next));
        // one set is enough, also where the walk of a second one passes
        let (found, _) = read_pages(&connection, &all.clone().tagged_any([set(&["b:1"]), set(&["c:1", "d:1"])]));
        assert_eq!(found.len(), 3_001);
        let (found, pages) = read_pages(&connection, &all.clone().tagged_any([set(&["none:1"])]));
        assert_eq!((found.len(), pages), (0, 1));
        // each event has all tags of an empty set
        assert_eq!(read_pages(&connection, &all.tagged_any([set(&[]), set(&["none:1"])])).0.len(), 30_000);
    }

    /// A search that scans the events would take longer the more events have other tags.
    #[test]
    fn tagged_events_are_walked_along_their_index() {
        let connection = database();
        tag_events(&connection);
        connection.execute_batch("ANALYZE").unwrap();
        let sql = include_str!("sql/tagged_positions.sql");
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps: Vec<String> = plan.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
        for step in [
            "SEARCH t USING PRIMARY KEY (tag_no=? AND position>? AND position<?)",
            "SEARCH other USING PRIMARY KEY (tag_no=? AND position=?)",
            "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)",
        ] {
            assert!(steps.iter().any(|found| found == step), "{step}: {steps:?}");
        }
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
    }

    /// A check that scans the events would take longer the more of them there are. It sorts the streams of a window.
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
            let is_scan = |step: &String| ["SCAN e", "SCAN f"].iter().any(|scan| step.starts_with(scan));
            assert!(!steps.iter().any(is_scan), "{steps:?}");
        }
    }

    #[test]
    fn filters_walk_the_positions() {
        let connection = database();
        connection.execute_batch("ANALYZE").unwrap();
        let (read, visit) = (include_str!("sql/read_feed_filtered.sql"), include_str!("sql/visit_feed.sql"));
        for sql in [read, visit, include_str!("sql/count_events.sql")] {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps: Vec<String> = plan.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            let by_position = "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
            assert!(steps.iter().any(|step| step == by_position), "{steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER")), "{steps:?}");
        }
    }
}
