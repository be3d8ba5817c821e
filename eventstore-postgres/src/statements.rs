//! All statements of a store, filled in for its schema once, at connect.

use eventbus::{ExpectedVersion, support::PAGE_BYTES};
use sqlx::SqlStr;

use crate::{record::PAGE_EVENTS_MAX, schema::Schema};

#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) schema: Schema,
    append: AppendStatements,
    /// The append statements that also list the types of their events.
    append_listing_types: AppendStatements,
    pub(crate) resolve: SqlStr,
    pub(crate) read_forward: SqlStr,
    pub(crate) read_backward: SqlStr,
    pub(crate) stream_version: SqlStr,
    pub(crate) head: SqlStr,
    pub(crate) read_page: SqlStr,
    pub(crate) read_filtered: SqlStr,
    pub(crate) window_end: SqlStr,
    pub(crate) count_events: SqlStr,
    pub(crate) first_recorded_after: SqlStr,
    pub(crate) store_id: SqlStr,
    pub(crate) load_checkpoint: SqlStr,
    pub(crate) save_checkpoint: SqlStr,
    pub(crate) event_types: SqlStr,
    pub(crate) load_note: SqlStr,
    pub(crate) save_note: SqlStr,
    pub(crate) delete_note: SqlStr,
    pub(crate) list_note_names: SqlStr,
    pub(crate) acquire_lease: SqlStr,
    pub(crate) seize_lease: SqlStr,
    pub(crate) load_lease: SqlStr,
    pub(crate) renew_lease: SqlStr,
    pub(crate) load_floors: SqlStr,
    pub(crate) save_floors: SqlStr,
    pub(crate) forget_floor: SqlStr,
    pub(crate) save_progress: SqlStr,
    pub(crate) load_waiting_deliveries: SqlStr,
    pub(crate) load_dead_positions: SqlStr,
    pub(crate) load_dead_deliveries: SqlStr,
    pub(crate) load_dead_delivery: SqlStr,
    pub(crate) count_dead_deliveries: SqlStr,
    pub(crate) requeue_dead_delivery: SqlStr,
    pub(crate) delete_dead_delivery: SqlStr,
    pub(crate) advance: SqlStr,
    pub(crate) advance_first: SqlStr,
    pub(crate) release_append_savepoint: SqlStr,
    pub(crate) has_appended: SqlStr,
    pub(crate) record_delivery: SqlStr,
    pub(crate) forget_deliveries: SqlStr,
    pub(crate) delete_checkpoint: SqlStr,
    pub(crate) open_append: SqlStr,
}

impl Statements {
    pub(crate) fn new(schema: &Schema) -> Self {
        let statement = |sql: &str| {
            let sql = without_comments(sql).replace("{record}", include_str!("sql/record.sql").trim());
            let sql = sql.replace("{wanted}", include_str!("sql/wanted.sql").trim());
            schema.statement(&sql.replace("{appended_in}", &without_comments(include_str!("sql/appended_in.sql"))))
        };
        let page = |rows: &str, order: &str| {
            let page = without_comments(include_str!("sql/page.sql")).replace("{rows}", &without_comments(rows));
            let stored_bytes = PAGE_BYTES + 4 * PAGE_EVENTS_MAX as usize;
            let page = page.replace("{order}", order).replace("{page_bytes}", &PAGE_BYTES.to_string());
            statement(&page.replace("{stored_bytes}", &stored_bytes.to_string()))
        };
        Self {
            schema: schema.clone(),
            append: AppendStatements::new(schema, "", ""),
            append_listing_types: AppendStatements::new(
                schema,
                ",\nstored AS (",
                &format!(", event_type, schema_version\n{}", without_comments(include_str!("sql/list_types.sql"))),
            ),
            resolve: statement(include_str!("sql/resolve.sql")),
            read_forward: page(include_str!("sql/read_forward.sql"), "version"),
            read_backward: page(include_str!("sql/read_backward.sql"), "version DESC"),
            stream_version: statement(include_str!("sql/stream_version.sql")),
            head: statement(include_str!("sql/head.sql")),
            read_page: page(include_str!("sql/read_page.sql"), "position"),
            read_filtered: page(include_str!("sql/read_filtered.sql"), "position"),
            window_end: statement(include_str!("sql/reach.sql")),
            count_events: statement(include_str!("sql/count_events.sql")),
            first_recorded_after: statement(include_str!("sql/first_recorded_after.sql")),
            store_id: statement(include_str!("sql/store_id.sql")),
            load_checkpoint: statement(include_str!("sql/load_checkpoint.sql")),
            save_checkpoint: statement(include_str!("sql/save_checkpoint.sql")),
            event_types: statement(include_str!("sql/event_types.sql")),
            load_note: statement(include_str!("sql/load_note.sql")),
            save_note: statement(include_str!("sql/save_note.sql")),
            delete_note: statement(include_str!("sql/forget_note.sql")),
            list_note_names: statement(include_str!("sql/note_names.sql")),
            acquire_lease: statement(include_str!("sql/acquire_lease.sql")),
            seize_lease: statement(include_str!("sql/seize_lease.sql")),
            load_lease: statement(include_str!("sql/lease_of.sql")),
            renew_lease: statement(include_str!("sql/renew_lease.sql")),
            load_floors: statement(include_str!("sql/load_floors.sql")),
            save_floors: statement(include_str!("sql/save_floors.sql")),
            forget_floor: statement(include_str!("sql/forget_floor.sql")),
            save_progress: statement(include_str!("sql/save_progress.sql")),
            load_waiting_deliveries: statement(include_str!("sql/load_waiting.sql")),
            load_dead_positions: statement(include_str!("sql/dead_positions.sql")),
            load_dead_deliveries: statement(include_str!("sql/load_dead.sql")),
            load_dead_delivery: statement(include_str!("sql/load_dead_one.sql")),
            count_dead_deliveries: statement(include_str!("sql/count_dead.sql")),
            requeue_dead_delivery: statement(include_str!("sql/revive_dead.sql")),
            delete_dead_delivery: statement(include_str!("sql/forget_dead.sql")),
            advance: statement(include_str!("sql/advance.sql")),
            advance_first: statement(include_str!("sql/advance_first.sql")),
            release_append_savepoint: statement(
                "RELEASE SAVEPOINT eventbus_append; SET LOCAL eventbus.appended_{namespace} = on",
            ),
            has_appended: statement("SELECT {appended_in}"),
            record_delivery: statement(include_str!("sql/note_delivery.sql")),
            forget_deliveries: statement(include_str!("sql/forget_deliveries.sql")),
            delete_checkpoint: statement(include_str!("sql/take_checkpoint.sql")),
            open_append: statement(include_str!("sql/open_append.sql")),
        }
    }

    /// Returns the statements that append; those that also list the types of their events if `lists`.
    pub(crate) const fn appends(&self, lists: bool) -> &AppendStatements {
        if lists { &self.append_listing_types } else { &self.append }
    }
}

/// The statements that append.
#[derive(Debug)]
pub(crate) struct AppendStatements {
    new: SqlStr,
    exact: SqlStr,
    existing: SqlStr,
    any: SqlStr,
    pub(crate) multi_stream: SqlStr,
}

impl AppendStatements {
    fn new(schema: &Schema, stored: &str, listed: &str) -> Self {
        let append = |sql: &str, claim: &str| {
            let sql = without_comments(sql).replace("{claim}", &without_comments(claim));
            schema.statement(&sql.replace("{stored}", stored).replace("{listed}", listed))
        };
        let one = |claim: &str| append(include_str!("sql/append.sql"), claim);
        Self {
            new: one(include_str!("sql/claim_new.sql")),
            exact: one(include_str!("sql/claim_exact.sql")),
            existing: one(include_str!("sql/claim_existing.sql")),
            any: one(include_str!("sql/claim_any.sql")),
            multi_stream: append(include_str!("sql/append_many.sql"), ""),
        }
    }

    /// Returns the append that claims the stream at the expected version.
    pub(crate) fn single_stream(&self, expected: ExpectedVersion) -> &SqlStr {
        match expected {
            ExpectedVersion::Any => &self.any,
            ExpectedVersion::StreamExists => &self.existing,
            ExpectedVersion::Exact(version) if version > eventbus::Version::NONE => &self.exact,
            ExpectedVersion::NoStream | ExpectedVersion::Exact(_) => &self.new,
        }
    }
}

/// Removes the comments: the text is the key of the statement cache, and the server shows it as running.
fn without_comments(sql: &str) -> String {
    let lines: Vec<_> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n").trim().into()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use eventbus::{Name, NewEvent, StreamId};
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqlSafeStr as _};

    use super::*;
    use crate::{
        PgEventStore, PgEventStoreConfig,
        columns::{EventColumns, StreamColumns},
    };

    async fn connection(name: &str) -> PgConnection {
        let mut connection = PgConnection::connect(test_servers::postgres_url()).await.unwrap();
        run(&mut connection, &format!("SET application_name = '{name}'")).await;
        connection
    }

    async fn run(connection: &mut PgConnection, sql: &str) {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    /// Waits until a session waits for a lock.
    async fn until_blocked(watcher: &mut PgConnection, name: &str) {
        let sql =
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock')";
        let blocked = async {
            while !sqlx::query_scalar::<_, bool>(sql).bind(name).fetch_one(&mut *watcher).await.unwrap() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), blocked).await.expect("the session waits for no lock");
    }

    /// Appends an event to each of two streams in one statement; returns the number of stored events.
    async fn append_to_both(schema: Schema, sql: SqlStr, name: String) -> sqlx::Result<usize> {
        let streams = ["first", "second"].map(|id| StreamId::parse("Account", id).unwrap());
        let events = streams.clone().map(|_| NewEvent::new(Name::from_static("Deposited"), 1, "{}"));
        let (mut stream_columns, mut event_columns) = (StreamColumns::default(), EventColumns::default());
        for (number, (stream, event)) in streams.iter().zip(&events).enumerate() {
            stream_columns.push(stream, ExpectedVersion::Any);
            stream_columns.push_events(number, 1);
            event_columns.push(event);
        }
        let mut connection = connection(&name).await;
        run(&mut connection, &schema.fill_placeholders("SET search_path TO {schema}")).await;
        let query = event_columns.bind_to(stream_columns.bind_to(sqlx::query(sql)));
        Ok(query.fetch_all(&mut connection).await?.len())
    }

    /// Two statements append to the same two streams and meet half-way: the first has inserted one stream, which the
    /// second inserts too, and is about to insert the other stream, which the second found and claimed.
    ///
    /// Returns the results of both, if they wait for each other without a limit.
    async fn meet_half_way(edit: impl Fn(&str) -> String) -> [sqlx::Result<usize>; 2] {
        let schema = Schema::new(&test_servers::unique_name("store")).unwrap();
        let database_url = test_servers::postgres_url().to_owned();
        let config = PgEventStoreConfig { database_url, schema: schema.name().into(), ..Default::default() };
        drop(PgEventStore::connect_with(config).await.unwrap());
        let sql = Statements::new(&schema).append.multi_stream;
        assert!(sql.as_str().contains("'100ms'"));
        let sql: Arc<str> = edit(&sql.as_str().replace("'100ms'", "'0'")).into();
        let start = |name: &str| {
            let sql = AssertSqlSafe(sql.to_string()).into_sql_str();
            tokio::spawn(append_to_both(schema.clone(), sql, name.to_owned()))
        };

        let (one, other) = (test_servers::unique_name("one"), test_servers::unique_name("other"));
        let mut gate = connection("gate").await;
        let wait_at_the_gate = schema.fill_placeholders(
            "CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF current_setting('application_name') = 'NAME' THEN
                     PERFORM pg_advisory_xact_lock_shared({namespace});
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER wait BEFORE INSERT ON {schema}.streams FOR EACH ROW
                 WHEN (NEW.aggregate_id = 'second') EXECUTE FUNCTION {schema}.wait();
             SELECT pg_advisory_lock({namespace})",
        );
        run(&mut gate, &wait_at_the_gate.replace("NAME", &one)).await;
        let mut watcher = connection("watcher").await;
        let first = start(&one);
        until_blocked(&mut watcher, &one).await;
        // the first statement began before and does not see the stream
        run(
            &mut watcher,
            &schema.fill_placeholders(
                "INSERT INTO {schema}.streams (aggregate_id, aggregate_type, version) VALUES ('second', 'Account', 0)",
            ),
        )
        .await;
        let second = start(&other);
        until_blocked(&mut watcher, &other).await;
        run(&mut gate, &schema.fill_placeholders("SELECT pg_advisory_unlock({namespace})")).await;
        let results = [first.await.unwrap(), second.await.unwrap()];
        run(&mut gate, &schema.fill_placeholders("DROP SCHEMA {schema} CASCADE")).await;
        results
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn appends_to_streams_that_others_make_meanwhile_do_not_wait_in_a_circle() {
        let results = meet_half_way(str::to_owned).await;
        let [Ok(1), Ok(1)] = results else { panic!("each one appends to the stream that it got: {results:?}") };
    }

    /// Shows that the steps above find a deadlock where there is one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_updates_before_he_inserts_waits_in_a_circle() {
        let inserted = ", (SELECT count(*) FROM made) inserted";
        let results = meet_half_way(|sql| {
            assert!(sql.contains(inserted));
            sql.replace(inserted, "")
        });
        let deadlock = |result: &sqlx::Result<usize>| {
            let error = result.as_ref().err().and_then(sqlx::Error::as_database_error);
            error.is_some_and(|error| error.code().as_deref() == Some("40P01"))
        };
        let results = results.await;
        assert_eq!(results.iter().filter(|result| deadlock(result)).count(), 1, "{results:?}");
    }
}
