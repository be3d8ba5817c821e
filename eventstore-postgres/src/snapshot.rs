//! Snapshots of streams.
//!
//! Invariant: an error about the table of snapshots, or a row of it, fails no read: the events are read without it.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, StreamId, Version,
    port::{Direction, ReadError, SnapshotError, SnapshotRead, Snapshots, StoredSnapshot},
    support::{Page, StreamCursor, missing_event_error, paged_after},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    columns::bind_stream,
    pool::Query,
    read::stream_page,
    record::{PAGE_EVENTS_MAX, RECORD_COLUMNS, decode_stream_page, read_position},
    statement_error::StatementError,
    store::PgEventStore,
    store_inner::StoreInner,
};

#[async_trait]
impl Snapshots for PgEventStore {
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError> {
        let stream = stream.clone();
        let (snapshot, first) = match read_with_snapshot(self.inner(), &stream, fold).await? {
            Some(read) => read,
            None => {
                let whole = StreamCursor::new(Version::FIRST);
                (None, stream_page(self.inner(), &stream, whole, Direction::Forward).await?)
            }
        };
        let events = paged_after(first, move |cursor| {
            let stream = stream.clone();
            async move { stream_page(self.inner(), &stream, cursor, Direction::Forward).await }
        });
        Ok(SnapshotRead { snapshot, events })
    }

    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError> {
        if snapshot.version == Version::NONE {
            return Ok(false);
        }
        let query = self.inner().statements().query(include_str!("sql/save_snapshot.sql"));
        let query = bind_stream(query, stream).bind(fold.as_str());
        let query = query.bind(snapshot.version.as_i64()).bind(&*snapshot.data);
        Ok(!write_snapshots(self.inner(), fold, query).await?.is_empty())
    }

    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError> {
        let query = self.inner().statements().query(include_str!("sql/forget_snapshot.sql"));
        Ok(!write_snapshots(self.inner(), fold, bind_stream(query, stream).bind(fold.as_str())).await?.is_empty())
    }

    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError> {
        let (mut after, mut removed) = (i64::MIN, 0);
        loop {
            let query = self.inner().statements().query(include_str!("sql/forget_snapshots.sql"));
            let batch = write_snapshots(self.inner(), fold, query.bind(after).bind(fold.as_str())).await?;
            let Some(batch) = batch.first() else {
                return Ok(removed);
            };
            let decoded = batch.try_get(0).and_then(|last| Ok((last, batch.try_get::<i64, _>(1)?)));
            let (last, of_batch) = decoded.map_err(|error| SnapshotError::unavailable(fold, error))?;
            (after, removed) = (last, removed + of_batch.unsigned_abs());
        }
    }
}

/// Reads the snapshot and the first page of the events after it, in one statement; `None` if the snapshots cannot be
/// read.
async fn read_with_snapshot(
    inner: &StoreInner,
    stream: &StreamId,
    fold: &Name,
) -> Result<Option<(Option<StoredSnapshot>, Page<StreamCursor>)>, ReadError> {
    let without = |error: &dyn std::fmt::Display| {
        tracing::debug!(%stream, %fold, %error, "a snapshot cannot be read: reading all events");
    };
    let query = bind_stream(inner.statements().read_from_snapshot(), stream).bind(fold.as_str()).bind(PAGE_EVENTS_MAX);
    let rows = match inner.connections().fetch_all(query).await {
        Ok(rows) => rows,
        Err(error @ (StatementError::NotSent(_) | StatementError::NoAnswer(_))) => return Err(error.into()),
        // the table may be missing, locked or damaged, or the role may not read it
        Err(error) => {
            without(&BoxError::from(error));
            return Ok(None);
        }
    };
    let snapshot = match rows.first().map(decode_snapshot).transpose() {
        Ok(snapshot) => snapshot.flatten(),
        Err(error) => {
            without(&error);
            return Ok(None);
        }
    };
    let has_events = rows.first().is_some_and(|row| !matches!(read_position(row, 0), Ok(None)));
    let (mut events, has_more) = decode_stream_page(if has_events { &rows } else { &[] }, stream)?;
    let after = snapshot.as_ref().map_or(Version::NONE, |snapshot| snapshot.version);
    let next = StreamCursor::new(after.next()).after_page(Direction::Forward, &mut events, has_more);
    Ok(Some((snapshot, (events, next.map_err(|missing| missing_event_error(stream, missing))?))))
}

/// Decodes the columns behind those of `record.sql`.
fn decode_snapshot(row: &PgRow) -> Result<Option<StoredSnapshot>, BoxError> {
    let Some(version) = row.try_get::<Option<i64>, _>(RECORD_COLUMNS)? else {
        return Ok(None);
    };
    let version = Version::new(u64::try_from(version)?);
    Ok(Some(StoredSnapshot { version, data: row.try_get(RECORD_COLUMNS + 1)? }))
}

/// Runs a statement that changes snapshots of `fold`.
async fn write_snapshots(inner: &StoreInner, fold: &Name, query: Query<'_>) -> Result<Vec<PgRow>, SnapshotError> {
    inner.connections().fetch_all(query).await.map_err(|error| match error {
        StatementError::Refused(source) => SnapshotError::refused(fold, source),
        other => SnapshotError::unavailable(fold, other),
    })
}

#[cfg(test)]
mod tests {
    use eventbus::{ExpectedVersion, NewEvent, port::AppendEvents as _};
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqlSafeStr as _};

    use super::*;
    use crate::{PgEventStoreConfig, pool::PLANNER_SETTINGS};

    /// Returns the plan that the server keeps for a statement.
    async fn generic_plan(connection: &mut PgConnection, sql: &str) -> Vec<String> {
        let parameters = (1..).take_while(|number| sql.contains(&format!("${number}"))).count();
        let nulls = vec!["NULL"; parameters].join(", ");
        let prepared = format!("PREPARE planned AS {sql}");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(prepared))).await.unwrap();
        let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE planned({nulls})"));
        let plan = sqlx::query_scalar(explain.into_sql_str()).fetch_all(&mut *connection).await.unwrap();
        connection.execute("DEALLOCATE planned").await.unwrap();
        plan
    }

    /// The plans are those for tables without statistics, as they are when an application starts.
    #[tokio::test]
    async fn statements_walk_along_keys() {
        let schema = eventbus_test::unique_name("store");
        let database_url = eventbus_test::postgres_url().to_owned();
        let config =
            PgEventStoreConfig { database_url: database_url.clone(), schema: schema.clone(), ..Default::default() };
        let store = PgEventStore::connect_with(config).await.unwrap();
        let stream = StreamId::parse("Account", "12345").unwrap();
        let event = NewEvent::new(Name::from_static("Deposited"), 1, "{}");
        store.append(&stream, ExpectedVersion::NoStream, vec![event]).await.unwrap();

        let mut connection = PgConnection::connect(&database_url).await.unwrap();
        for (setting, value) in PLANNER_SETTINGS.into_iter().chain([("plan_cache_mode", "force_generic_plan")]) {
            connection.execute(AssertSqlSafe(format!("SET {setting} = {value}")).into_sql_str()).await.unwrap();
        }
        let statements = store.inner().statements();
        for sql in [
            statements.read_from_snapshot(),
            statements.query(include_str!("sql/save_snapshot.sql")),
            statements.query(include_str!("sql/forget_snapshot.sql")),
            statements.query(include_str!("sql/forget_snapshots.sql")),
        ] {
            let sql = sqlx::Execute::sql(sql).as_str().to_owned();
            let plan = generic_plan(&mut connection, &sql).await;
            let along_no_key = |step: &&String| {
                step.contains("Scan on")
                    && !["CTE Scan", "Subquery Scan", "Index"].iter().any(|scan| step.contains(scan))
            };
            assert_eq!(plan.iter().find(along_no_key), None, "{sql}\n{plan:#?}");
            for scan in plan.windows(2).filter(|steps| steps[0].contains("Scan using")) {
                let is_of_stream = scan[1].contains("stream_no = ") || !scan[0].contains(" on events");
                assert!(scan[1].contains("Index Cond: ") && is_of_stream, "{sql}\n{plan:#?}");
            }
            assert!(plan.iter().any(|step| step.contains("snapshots_pkey")), "{sql}\n{plan:#?}");
        }
        store.close().await;
        let drop_schema = format!("DROP SCHEMA {schema} CASCADE");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(drop_schema))).await.unwrap();
    }
}
