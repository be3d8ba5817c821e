//! Reading all events in one total order, without gaps.
//!
//! Keep: the end that is safe and a page are two statements, in this order, so that the page's snapshot is the newer one.
//!
//! Keep: a reader stands at an event, never at a position that holds none. Such a position may be drawn again after a
//! crash, see `head.sql`; whoever had stepped over it would miss what it holds then.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent,
    port::{AppendSignal, FeedFilter, Page, ReadError, ReadFeed, RecordStream, paged},
};
use sqlx::{Row, SqlStr, postgres::PgRow};
use uuid::Uuid;

use crate::{
    pool::Query,
    record::{PAGE, decode_page},
    store::PgEventStore,
};

/// The most positions that one statement looks at for a filter, which may let none of them through.
const WINDOW: i64 = 100_000;

/// Where a reader of the feed is.
#[derive(Debug, Clone, Copy)]
struct Place {
    after: i64,
    /// The last event that is safe to read, once that was asked for.
    end: Option<i64>,
    /// Whether the way to the end took several pages: meanwhile it may have moved far.
    is_long: bool,
    /// Whether the end is the second one, at which the reader stops.
    is_final: bool,
}

#[async_trait]
impl ReadFeed for PgEventStore {
    fn read_feed(&self, after: Position, filter: &FeedFilter) -> RecordStream<'_> {
        let start = Place { after: after.as_i64(), end: None, is_long: false, is_final: false };
        let wanted = Wanted::of(filter);
        paged(start, move |place| {
            let wanted = wanted.clone();
            async move { self.feed_page(place, &wanted).await }
        })
    }

    async fn head(&self) -> Result<Position, ReadError> {
        let head = self.end_after(Position::START.as_i64()).await?;
        Ok(head.map_or(Position::START, |head| Position::new(u64::try_from(head).unwrap_or(0))))
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        let wanted = Wanted::of(filter);
        let (mut after, mut count) = (after.as_i64(), 0);
        while let Some(reach) = self.reach(after, through.as_i64()).await? {
            let query = wanted.bind_to(&self.statements.count_events, after, reach);
            let found: i64 = self.number(query).await?.unwrap_or(0);
            count += u64::try_from(found).unwrap_or(0);
            after = reach;
        }
        Ok(count)
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        let rows = self.connections.fetch_all(sqlx::query(self.statements.store_id.clone())).await?;
        let row = rows.first().ok_or_else(|| ReadError::Unavailable("the store has no id".into()))?;
        row.try_get(0).map_err(unreadable)
    }

    fn appended(&self) -> &AppendSignal {
        &self.appended.signal
    }
}

impl PgEventStore {
    /// The last event after `after` that is safe to read.
    async fn end_after(&self, after: i64) -> Result<Option<i64>, ReadError> {
        self.number(sqlx::query(self.statements.head.clone()).bind(after)).await
    }

    /// The last event of the window that begins after `after` and does not go beyond `end`.
    async fn reach(&self, after: i64, end: i64) -> Result<Option<i64>, ReadError> {
        self.number(sqlx::query(self.statements.reach.clone()).bind(after).bind(end).bind(WINDOW)).await
    }

    async fn number(&self, query: Query<'_>) -> Result<Option<i64>, ReadError> {
        let rows = self.connections.fetch_all(query).await?;
        let row = rows.first().ok_or_else(|| ReadError::Unavailable("no answer".into()))?;
        row.try_get(0).map_err(unreadable)
    }

    async fn feed_page(&self, place: Place, wanted: &Wanted) -> Result<Page<Place>, ReadError> {
        let end = match place.end {
            Some(end) => end,
            None => match self.end_after(place.after).await? {
                Some(end) => end,
                None => return Ok((Vec::new(), None)),
            },
        };
        let (rows, reach) = self.feed_rows(place.after, end, wanted).await?;
        let (events, is_last) = decode_page(&rows)?;
        let last = events.last().and_then(RecordedEvent::position);
        let next = match last {
            Some(last) if !is_last => Some(Place { after: last.as_i64(), end: Some(end), is_long: true, ..place }),
            _ if reach < end => Some(Place { after: reach, end: Some(end), is_long: true, ..place }),
            _ if place.is_long && !place.is_final => Some(Place { after: end, end: None, is_final: true, ..place }),
            _ => None,
        };
        Ok((events, next))
    }

    /// The next events asked for, and the event up to which they were looked for.
    async fn feed_rows(&self, after: i64, end: i64, wanted: &Wanted) -> Result<(Vec<PgRow>, i64), ReadError> {
        if wanted.is_all {
            let query = sqlx::query(self.statements.read_page.clone()).bind(after).bind(end).bind(PAGE);
            return Ok((self.connections.fetch_all(query).await?, end));
        }
        let reach = match end - after {
            ..=WINDOW => end,
            _ => self.reach(after, end).await?.unwrap_or(end),
        };
        let query = wanted.bind_to(&self.statements.read_filtered, after, reach).bind(PAGE);
        Ok((self.connections.fetch_all(query).await?, reach))
    }
}

/// A filter as `wanted.sql` has it.
#[derive(Debug, Clone)]
struct Wanted {
    is_all: bool,
    aggregate_types: Option<Vec<String>>,
    event_types: Option<Vec<String>>,
    tenant: Option<Uuid>,
}

impl Wanted {
    fn of(filter: &FeedFilter) -> Self {
        let texts =
            |names: &std::collections::BTreeSet<eventbus::Name>| names.iter().map(ToString::to_string).collect();
        Self {
            is_all: filter.is_all(),
            aggregate_types: filter.wanted_aggregate_types().map(texts),
            event_types: filter.wanted_event_types().map(texts),
            tenant: filter.wanted_tenant(),
        }
    }

    /// A statement with where to look, and for what.
    fn bind_to<'q>(&'q self, sql: &SqlStr, after: i64, end: i64) -> Query<'q> {
        sqlx::query(sql.clone())
            .bind(after)
            .bind(end)
            .bind(self.aggregate_types.as_deref())
            .bind(self.event_types.as_deref())
            .bind(self.tenant)
    }
}

fn unreadable(error: sqlx::Error) -> ReadError {
    ReadError::Unavailable(error.into())
}

#[cfg(test)]
mod tests {
    use eventbus::{AggregateId, ExpectedVersion, Name, NewEvent, StreamId, port::AppendEvents as _};
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

    use super::*;
    use crate::PgEventStoreConfig;

    /// However little a filter lets through: sorting, or looking at all events, takes longer the more there are.
    #[tokio::test]
    async fn filtered_pages_are_walked_along_the_positions() {
        let schema = test_servers::unique_name("store");
        let database_url = test_servers::postgres_url().to_owned();
        let config = PgEventStoreConfig { database_url, schema: schema.clone(), ..Default::default() };
        let store = PgEventStore::connect_with(config).await.unwrap();
        let stream = StreamId::new(Name::from_static("Account"), AggregateId::new());
        let event = |_| NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
        for _ in 0..5 {
            store.append(&stream, ExpectedVersion::Any, (0..1_000).map(event).collect()).await.unwrap();
        }
        let mut connection = PgConnection::connect(test_servers::postgres_url()).await.unwrap();
        let sql = store.statements.read_filtered.as_str();
        let prepare = format!("ANALYZE {schema}.events; PREPARE page AS {sql}");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await.unwrap();
        for mode in ["force_custom_plan", "force_generic_plan"] {
            for wanted in ["NULL, '{Rare}', NULL", "'{Order}', NULL, gen_random_uuid()", "NULL, '{Deposited}', NULL"] {
                let explain = format!("EXPLAIN EXECUTE page(0, 5000, {wanted}, 1000)");
                let set = format!("SET plan_cache_mode = {mode}");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(set))).await.unwrap();
                let plan: Vec<String> =
                    sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
                let plan = plan.join("\n");
                assert!(plan.contains("Index Scan using events_pkey"), "{mode}, {wanted}:\n{plan}");
            }
        }
        let drop = format!("DROP SCHEMA {schema} CASCADE");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await.unwrap();
    }
}
