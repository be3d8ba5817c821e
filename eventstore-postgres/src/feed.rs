//! Reading all events in one total order, without gaps.
//!
//! Invariant: the head and a page are two statements, in this order, so that the page's snapshot is the newer one; also
//! those of the function that reads both in one round trip, see `migrations/0001_initial.sql`.
//!
//! Invariant: the head is the position of an event, never one without. The sequence may draw such a position again
//! after a crash, see `head.sql`; a reader that had passed it would miss the event stored there.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent, StreamId,
    port::{
        AppendSignal, FeedFilter, MissingEvent, ReadError, ReadFeed, RecordStream,
        feed_page::{FeedPage, PageLimits},
    },
    store::{FeedEnd, VisitFeedEvent},
    support::{fetched_ahead, paged_ahead},
};
use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    feed_page::{
        self, FeedColumns, FeedCursor, PageStart, decode_filtered, feed_page, fetch_filtered, fetch_row, fetch_value,
        find_window_end, unreadable_answer,
    },
    filter_parameters::FilterParameters,
    joint_page, missing_events,
    open_append::PgOpenAppend,
    record::decode_time,
    store::PgEventStore,
    store_inner::StoreInner,
    visit,
};

#[async_trait]
impl ReadFeed for PgEventStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        let (inner, wanted, end) = (Arc::clone(self.inner()), FilterParameters::new(filter), through.as_i64());
        let read = Arc::new((inner, wanted));
        if read.1.is_all() || read.1.has_tags() {
            return paged_ahead(FeedCursor::new(after), move |cursor| {
                let read = Arc::clone(&read);
                async move { feed_page(&read.0, cursor, end, &read.1).await }
            });
        }
        let decoding = Arc::clone(&read);
        let fetch = move |start| {
            let read = Arc::clone(&read);
            async move { fetch_filtered(&read.0, start, end, &read.1, FeedColumns::Record).await }
        };
        let decode = move |rows| {
            let read = Arc::clone(&decoding);
            async move { decode_filtered(&read.0, rows).await }
        };
        fetched_ahead(PageStart::new(after), fetch, decode)
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

    async fn read_events_at(&self, positions: &[Position]) -> Vec<Result<Option<RecordedEvent>, ReadError>> {
        feed_page::read_events_at(self.inner(), positions).await.unwrap_or_else(|error| vec![Err(error)])
    }

    async fn head(&self) -> Result<Position, ReadError> {
        Ok(self.feed_end().await?.head)
    }

    async fn feed_end(&self) -> Result<FeedEnd, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/head.sql"));
        let row = fetch_row(self.inner(), query).await?;
        if row.try_get(2).map_err(unreadable_answer)? {
            return Err(ReadError::Unavailable("the server is a standby".into()));
        }
        let head: Option<i64> = row.try_get(0).map_err(unreadable_answer)?;
        let head = head.map_or(Position::START, |head| Position::new(u64::try_from(head).unwrap_or(0)));
        Ok(FeedEnd { head, has_open_appends: row.try_get(1).map_err(unreadable_answer)? })
    }

    async fn read_page(&self, after: Position, filter: &FeedFilter, limits: PageLimits) -> Result<FeedPage, ReadError> {
        if let Some(page) = joint_page::read(self.inner(), after, &FilterParameters::new(filter), limits).await {
            return Ok(page);
        }
        let end = self.feed_end().await?;
        let page = FeedPage::take(self.read_feed(after, end.head, filter), end, after, limits).await?;
        self.inner().joint_pages().note_page(&page);
        Ok(page)
    }

    async fn held_for(&self) -> Result<Option<Duration>, ReadError> {
        Ok(PgOpenAppend::load_oldest(self.inner()).await?.map(|open| open.age.unwrap_or_default()))
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        let wanted = FilterParameters::new(filter);
        if wanted.has_tags() {
            return count_tagged_events(self.inner(), after.as_i64(), through.as_i64(), &wanted).await;
        }
        let (mut after, mut count) = (after.as_i64(), 0);
        while let Some(reach) = find_window_end(self.inner(), after, through.as_i64()).await? {
            let query = self.inner().statements().count_filtered(wanted.shape());
            let found: Option<i64> = fetch_value(self.inner(), wanted.bind_to(query, after, reach)).await?;
            count += u64::try_from(found.unwrap_or(0)).unwrap_or(0);
            after = reach;
        }
        Ok(count)
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/first_recorded_after.sql")).bind(after.as_i64());
        let rows = self.inner().connections().fetch_all(query).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let recorded_at = decode_time(row.try_get_unchecked(0).map_err(unreadable_answer)?);
        let corrupt = |error| ReadError::corrupt(format!("the first event after position {after}"), error);
        recorded_at.map(Some).map_err(corrupt)
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        missing_events::find_missing_event(self.inner(), stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/store_id.sql"));
        fetch_value(self.inner(), query).await
    }

    fn appended(&self) -> &AppendSignal {
        &self.inner().append_notifier().signal
    }
}

/// Counts the events that have wanted tags.
async fn count_tagged_events(
    inner: &StoreInner,
    mut after: i64,
    end: i64,
    filter: &FilterParameters,
) -> Result<u64, ReadError> {
    let mut count = 0;
    while after < end {
        let query = inner.statements().query(include_str!("sql/count_tagged_events.sql"));
        let rows = inner.connections().fetch_all(filter.bind_with_tags(query, after, end)).await?;
        let row = rows.first().ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
        let found: i64 = row.try_get(0).map_err(unreadable_answer)?;
        count += u64::try_from(found).unwrap_or(0);
        after = row.try_get(1).map_err(unreadable_answer)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use eventbus::{
        AggregateId, ExpectedVersion, Name, NewEvent, Version,
        event::{Tag, UniqueChange},
        port::{AppendEvents as _, Direction},
        support::{PAGE_BYTES, StreamCursor},
    };
    use futures_util::TryStreamExt as _;
    use sqlx::{AssertSqlSafe, Connection as _, Execute as _, Executor as _, PgConnection};

    use super::*;
    use crate::{
        PgEventStoreConfig,
        pool::PLANNER_SETTINGS,
        read::stream_page,
        statements::{AppendParts, FilterShape, PageEnd},
    };

    const DEPOSITED: Name = Name::from_static("Deposited");

    async fn store_with_events(count: usize) -> (PgEventStore, PgConnection) {
        let database_url = eventbus_test::postgres_url().to_owned();
        let config =
            PgEventStoreConfig { database_url, schema: eventbus_test::unique_name("store"), ..Default::default() };
        let store = PgEventStore::connect_with(config).await.unwrap();
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        let events: Vec<_> = (0..count).map(|_| NewEvent::new(DEPOSITED, 1, r#"{"cents":120}"#)).collect();
        for events in events.chunks(1_000) {
            store.append(&stream, ExpectedVersion::Any, events.to_vec()).await.unwrap();
        }
        (store, PgConnection::connect(eventbus_test::postgres_url()).await.unwrap())
    }

    /// Pages end with the event that reaches the bound, independently of its size on disk.
    #[tokio::test]
    async fn pages_are_bounded_in_bytes() {
        let (store, connection) = store_with_events(0).await;
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        // payloads that compress well, that do not, and that the server stores in the row
        let (spaces, random) = (" ".repeat(400_000), || {
            (0..12_000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect::<String>()
        });
        for text in [spaces, random(), "x".into()] {
            let events = (0..6).map(|_| NewEvent::new(DEPOSITED, 1, format!(r#"{{"text":"{text}"}}"#)));
            store.append(&stream, ExpectedVersion::Any, events.collect()).await.unwrap();
        }
        let filter = FeedFilter::all().event_types([DEPOSITED]);
        let (mut of_feed, mut of_stream) = (Vec::new(), Vec::new());
        for filter in [FeedFilter::all(), filter] {
            let (wanted, mut sizes) = (FilterParameters::new(&filter), Vec::new());
            let mut from = Some(FeedCursor::new(Position::START));
            while let Some(cursor) = from {
                let (events, next) = feed_page(store.inner(), cursor, 18, &wanted).await.unwrap();
                sizes.push(events.iter().map(|event| event.payload().len()).collect::<Vec<_>>());
                assert!(
                    next.as_ref().is_none_or(|next| next.page_end() == PageEnd::AtBytes),
                    "after a page with its bytes"
                );
                from = next;
            }
            of_feed.push(sizes);
        }
        for (start, direction) in [(Version::FIRST, Direction::Forward), (Version::MAX, Direction::Backward)] {
            let (mut from, mut sizes) = (Some(StreamCursor::new(start)), Vec::new());
            while let Some(cursor) = from {
                let (events, next) = stream_page(store.inner(), &stream, cursor, direction).await.unwrap();
                sizes.push(events.iter().map(|event| event.payload().len()).collect::<Vec<_>>());
                from = next;
            }
            of_stream.push(sizes);
        }
        for pages in of_feed.iter().chain(&of_stream) {
            assert_eq!(pages.iter().flatten().count(), 18, "{pages:?}");
            let (last, full) = pages.split_last().unwrap();
            for page in full {
                let before: usize = page[..page.len() - 1].iter().sum();
                let all = before + page[page.len() - 1];
                assert!(before < PAGE_BYTES && all >= PAGE_BYTES, "{pages:?}");
            }
            assert!(full.len() >= 3 && last.iter().sum::<usize>() < 2 * PAGE_BYTES, "{pages:?}");
        }
        drop_schema(&store, connection).await;
    }

    /// Drops the schema, and rolls back a transaction of `connection`.
    async fn drop_schema(store: &PgEventStore, mut connection: PgConnection) {
        let drop = store.inner().statements().schema().fill_placeholders("ROLLBACK; DROP SCHEMA {schema} CASCADE");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await.unwrap();
    }

    /// A page of dead letters, or the waiting deliveries of a group, costs a round trip and not one for each event.
    #[tokio::test]
    async fn events_at_many_positions_are_one_page() {
        let (store, connection) = store_with_events(200).await;
        let positions: Vec<_> = (1..=200).rev().map(Position::new).collect();
        let read = store.read_events_at(&positions).await;
        let found: Vec<_> = read.into_iter().map(|event| event.unwrap().unwrap().position().unwrap()).collect();
        assert_eq!(found, positions);
        drop_schema(&store, connection).await;
    }

    /// A plan that sorts or scans all events would take longer the more events there are, also for few matches.
    #[tokio::test]
    async fn pages_are_walked_along_an_index() {
        let (store, mut connection) = store_with_events(5_000).await;
        for (name, value) in PLANNER_SETTINGS {
            run(&mut connection, format!("SET {name} = {value}")).await;
        }
        let statements = store.inner().statements();
        let types = FilterShape { has_event_types: true, ..FilterShape::default() };
        let streams = FilterShape { has_aggregate_types: true, has_tenant: true, ..FilterShape::default() };
        for (name, page) in [
            (
                "filtered(bigint, bigint, text[], text[], uuid, bytea)",
                statements.filtered_page(types, PageEnd::AtEvents),
            ),
            (
                "of_streams(bigint, bigint, text[], text[], uuid, bytea)",
                statements.filtered_page(streams, PageEnd::AtEvents),
            ),
            (
                "large_filtered(bigint, bigint, text[], text[], uuid, bytea)",
                statements.filtered_page(types, PageEnd::AtBytes),
            ),
            ("visited(bigint, bigint, text[], text[], uuid, bytea)", statements.visited_page(types, PageEnd::AtEvents)),
            ("feed", statements.whole_feed_page(include_str!("sql/read_page.sql"), PageEnd::AtEvents)),
            ("large_feed", statements.whole_feed_page(include_str!("sql/read_page.sql"), PageEnd::AtBytes)),
            ("forward", statements.stream_page(include_str!("sql/read_forward.sql"), "version")),
            ("backward", statements.stream_page(include_str!("sql/read_backward.sql"), "version DESC")),
            ("counted", statements.query(include_str!("sql/count_versions.sql"))),
            ("missing", statements.query(include_str!("sql/missing_version.sql"))),
        ] {
            run(&mut connection, format!("PREPARE {name} AS {}", page.sql().as_str())).await;
        }
        for statistics in [String::new(), format!("ANALYZE {}.events", statements.schema().name())] {
            run(&mut connection, statistics).await;
            for mode in ["force_custom_plan", "force_generic_plan"] {
                run(&mut connection, format!("SET plan_cache_mode = {mode}")).await;
                for (call, events, streams) in [
                    ("filtered(0, 5000, NULL, '{Rare}', NULL, NULL, 1000)", "events_pkey", ""),
                    (
                        "of_streams(0, 5000, '{Order}', NULL, gen_random_uuid(), NULL, 1000)",
                        "events_pkey",
                        "streams_pkey",
                    ),
                    ("filtered(0, 5000, NULL, '{Deposited}', NULL, NULL, 1000)", "events_pkey", ""),
                    ("large_filtered(0, 5000, NULL, '{Deposited}', NULL, NULL, 1000)", "events_pkey", ""),
                    ("visited(0, 5000, NULL, '{Deposited}', NULL, NULL, 1000)", "events_pkey", ""),
                    ("feed(0, 5000, 1000)", "events_pkey", "events_stream"),
                    ("large_feed(0, 5000, 1000)", "events_pkey", "events_stream"),
                    ("counted(1, 1, 1000000, 4096, 100000)", "events_stream", "streams_pkey"),
                    ("missing(1, 1, 100000)", "events_stream", ""),
                    ("forward('ada', 'Account', gen_random_uuid(), 1, 1000)", "events_stream", "streams_identity"),
                    ("backward('ada', 'Account', gen_random_uuid(), 5, 1000)", "events_stream", "streams_identity"),
                ] {
                    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE {call}"));
                    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut connection).await.unwrap();
                    let plan = plan.join("\n");
                    let is_used = |index: &str| plan.contains(&format!("using {index}"));
                    let is_other = ["Bitmap", "Seq Scan", "Hash"].into_iter().any(|node| plan.contains(node));
                    assert!(is_used(events) && is_used(streams) && !is_other, "{mode}, {call}:\n{plan}");
                }
            }
        }
        drop_schema(&store, connection).await;
    }

    /// The plans are made for tables that are empty, or have a few rows, with and without statistics, and are kept while
    /// the tables are filled; those of reads are made again with statistics of the filled tables. A page of a tag with many
    /// events reads no more of them than its window, and a set is driven by the tag with the fewest events.
    #[tokio::test]
    async fn kept_plans_walk_along_keys() {
        let (store, mut connection) = store_with_events(0).await;
        for (name, value) in PLANNER_SETTINGS.into_iter().chain([("plan_cache_mode", "force_generic_plan")]) {
            run(&mut connection, format!("SET {name} = {value}")).await;
        }
        let statements = store.inner().statements();
        let all_parts = AppendParts { has_tags: true, has_values: true, has_note: true, lists_types: true };
        for (name, query) in [
            ("tagged", statements.tagged_page()),
            ("counted", statements.query(include_str!("sql/count_tagged_events.sql"))),
            ("boundary", statements.boundary_page()),
            ("appended", statements.append_streams(all_parts)),
            ("added", statements.query(include_str!("sql/add_tag.sql"))),
        ] {
            run(&mut connection, format!("PREPARE {name} AS {}", query.sql().as_str())).await;
        }
        let known = StreamId::parse("Account", "known").unwrap();
        let large = "0, 9000000000000, NULL, '{Deposited}', NULL, NULL, '{1}', '{1}', '{course:1}', 50";
        let both = "0, 9000000000000, NULL, NULL, NULL, NULL, '{1,1}', '{2,2}', '{course:1,student:a}', 5000";
        let many = "0, 9000000000000, '{Account}', NULL, NULL, NULL, '{1,2}', '{1,1}', '{course:1,student:a}', 50";
        let bounded =
            "0, 9000000000000, NULL, '{Deposited}', uuid_nil(), NULL, '{1,2}', '{1,1}', '{course:1,student:a}', 50";
        let append = "appended('{known}', '{Account}', ARRAY[uuid_nil()], '{-1}', '{1}', '{1}', '{1}', \
            ARRAY[gen_random_uuid()], '{Deposited}', '{1}', '{now}', '{\"{}\"}', ARRAY[gen_random_uuid()], '{NULL}', '{NULL}', \
            '{NULL}', '{NULL}', NULL, NULL, NULL, NULL, NULL, '{}', '{}', '{}', NULL, NULL, NULL, NULL, \
            ARRAY['{course:1}'], '{course:1}', ARRAY[uuid_nil()], '{\"{}\"}', '{5000}', '{Deposited}', '{1}', '{1}')";
        // calls, first those that only read, and the most rows of a step that reads a table
        let calls = [
            (format!("tagged({large}, 10)"), 50),
            (format!("tagged({both}, 10)"), 100),
            (format!("tagged({many}, 10)"), 100),
            (format!("counted({large})"), 50),
            (format!("counted({both})"), 100),
            (format!("boundary({bounded}, 10, '{{course:1,student:a}}', '{{Deposited}}')"), 100),
            ("added('a', 'Account', gen_random_uuid(), 1, 'course:1', 64)".into(), 1),
            (append.into(), 1),
        ];
        let reads = calls.len() - 2;
        let tables = "{schema}.tags, {schema}.tagged_events, {schema}.unique_values, {schema}.streams, {schema}.events";
        let tables = statements.schema().fill_placeholders(tables);
        let fill_streams =
            "INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
            SELECT 'id-' || i, 'Account', gen_random_uuid(), 0, now() FROM generate_series(1, 3000) i";
        let fill_streams = statements.schema().fill_placeholders(fill_streams);
        for (first, has_statistics) in [(0, false), (2, false), (60, false), (2, true), (60, true)] {
            for number in 0..first {
                add_to_stream_of_its_own(&store, number).await;
            }
            store.append(&known, ExpectedVersion::Any, vec![NewEvent::new(DEPOSITED, 1, "{}")]).await.unwrap();
            if has_statistics {
                run(&mut connection, format!("ANALYZE {tables}")).await;
            }
            run(&mut connection, "DISCARD PLANS".into()).await;
            walk_along_keys(&mut connection, &calls).await;
            fill_tags(&store).await;
            run(&mut connection, fill_streams.clone()).await;
            walk_along_keys(&mut connection, &calls).await;
            run(&mut connection, format!("ANALYZE {tables}")).await;
            walk_along_keys(&mut connection, &calls[..reads]).await;
            run(&mut connection, format!("TRUNCATE {tables}")).await;
        }
        drop_schema(&store, connection).await;
    }

    /// Fails if a step of a call reads a table without a key, or more rows than it may.
    async fn walk_along_keys(connection: &mut PgConnection, calls: &[(String, usize)]) {
        for (call, most) in calls {
            let call = call.replace("uuid_nil()", "'00000000-0000-0000-0000-000000000000'::uuid");
            let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, TIMING OFF) EXECUTE {call}"));
            run(connection, "BEGIN".into()).await;
            let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
            run(connection, "ROLLBACK".into()).await;
            for (step, next) in plan.iter().zip(plan.iter().skip(1)) {
                let reads = ["using ", "Seq Scan", "Bitmap"].into_iter().any(|node| step.contains(node));
                let reads = reads && !step.contains("using event_types_pkey"); // types are few
                let along_a_key = step.contains("using ") && next.contains("Index Cond: ");
                assert!(!reads || along_a_key, "{call}: {step}\n{}", plan.join("\n"));
                assert!(!reads || rows_of(step) <= *most, "{call}: {step}\n{}", plan.join("\n"));
            }
        }
    }

    /// Stores an event with tags and a unique value.
    async fn add_to_stream_of_its_own(store: &PgEventStore, number: u64) {
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        let tags = ["course", "student"].map(|name| Tag::new(name, &(number / 3)).unwrap());
        let held = UniqueChange::new(Name::from_static("email"), Some(number.to_string())).unwrap();
        let event = NewEvent::new(DEPOSITED, 1, "{}").with_tags(tags).with_unique(vec![held]);
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }

    /// A page that finds fewer events than it may have ends at the window, and the next one goes on behind it.
    #[tokio::test]
    async fn rare_events_of_a_large_tag_are_found() {
        let (store, connection) = store_with_events(0).await;
        let rare = Name::from_static("Rare");
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        let mut wanted = Vec::new();
        for round in 0..3 {
            let tag = |text| Tag::from_stored(text).unwrap();
            let other = if round == 0 { "student:a" } else { "student:b" };
            for tags in [vec![tag("course:1")], vec![tag("course:1"), tag(other)]] {
                let event = NewEvent::new(rare.clone(), 1, "{}").with_tags(tags);
                wanted.extend(store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap());
            }
            fill_tags(&store).await;
        }
        let set = |texts: &[&str]| texts.iter().map(|text| Tag::from_stored(text).unwrap()).collect::<BTreeSet<_>>();
        let end = Position::new(i64::MAX as u64);
        for (sets, of_wanted) in [
            (vec![set(&["course:1"])], &[0, 1, 2, 3, 4, 5][..]),
            (vec![set(&["course:1"]), set(&["student:b"])], &[0, 1, 2, 3, 4, 5]),
            (vec![set(&["course:1", "student:a"])], &[1]),
            (vec![set(&["student:b"]), set(&["course:1", "student:a"])], &[1, 3, 5]),
        ] {
            let filter = FeedFilter::all().tagged_any(sets).event_types([rare.clone()]);
            let found: Vec<_> = store.read_feed(Position::START, end, &filter).try_collect().await.unwrap();
            let wanted: Vec<_> = of_wanted.iter().map(|&place: &usize| wanted[place].clone()).collect();
            assert_eq!(found, wanted, "{filter:?}");
            assert_eq!(store.count_events(Position::START, end, &filter).await.unwrap(), wanted.len() as u64);
        }
        drop_schema(&store, connection).await;
    }

    /// Stores 5,000 events with a tag; each fiftieth has a second one.
    async fn fill_tags(store: &PgEventStore) {
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        let tag = |text| Tag::from_stored(text).unwrap();
        for _ in 0..5 {
            let events = (0..1_000).map(|number| {
                let more = (number % 50 == 0).then(|| tag("student:a"));
                NewEvent::new(DEPOSITED, 1, "{}").with_tags([tag("course:1")].into_iter().chain(more))
            });
            store.append(&stream, ExpectedVersion::Any, events.collect()).await.unwrap();
        }
    }

    /// Returns how many rows a step has returned: `(actual rows=100 loops=1)`.
    fn rows_of(step: &str) -> usize {
        let number = |name: &str| {
            let (_, number) = step.split_once(name)?;
            number.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().ok()
        };
        number("(actual rows=").unwrap_or(0) * number("loops=").unwrap_or(0)
    }

    async fn run(connection: &mut PgConnection, sql: String) {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    }

    /// An append that is delayed between its read of the sequence and its lock moves the head back; readers still get
    /// the events up to the earlier head.
    #[tokio::test]
    async fn a_head_that_was_told_can_be_read_up_to_while_it_goes_back() {
        let (store, mut late) = store_with_events(10).await;
        let earlier = store.head().await.unwrap();
        let lock = "BEGIN; SELECT pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | 3)";
        let lock = store.inner().statements().schema().fill_placeholders(lock);
        late.execute(sqlx::raw_sql(AssertSqlSafe(lock))).await.unwrap();
        assert_eq!((earlier.get(), store.head().await.unwrap().get()), (10, 3));
        for filter in [FeedFilter::all(), FeedFilter::all().event_types([DEPOSITED])] {
            let read: Vec<_> = store.read_feed(Position::START, earlier, &filter).try_collect().await.unwrap();
            assert_eq!(read.len(), 10);
        }
        drop_schema(&store, late).await;
    }
}
