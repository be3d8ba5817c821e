//! The statements of a store, filled in for its schema.

use std::collections::HashMap;

use eventbus::{ExpectedVersion, Version, support::PAGE_BYTES};
use parking_lot::RwLock;
use sqlx::{Arguments as _, SqlStr, postgres::PgArguments};

use crate::{pool::Query, record::PAGE_EVENTS_MAX, schema::Schema};

/// Addresses and lengths of a text of `sql/` and of the text that fills its gap, and the statement's optional parts.
/// Addresses, because hashing the texts at each append costs a microsecond.
type Template = (Place, Place, Variant);

/// The optional parts of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Variant {
    /// It lists the types of its events, or ends a page at its bytes.
    DoesMore(bool),
    /// It reads events that match a filter, and may end a page at its bytes.
    Filter(bool, FilterShape),
    Append(AppendParts),
}

/// The address and the length of a text.
type Place = (usize, usize);

fn template(sql: &'static str, gap: &'static str, variant: Variant) -> Template {
    let place = |text: &'static str| (text.as_ptr().addr(), text.len());
    (place(sql), place(gap), variant)
}

/// The parts of a filter that are given. A statement has only these: with null parameters for the rest, the server
/// would plan it anew at each call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct FilterShape {
    pub(crate) has_aggregate_types: bool,
    pub(crate) has_event_types: bool,
    pub(crate) has_tenant: bool,
    pub(crate) has_slots: bool,
}

impl FilterShape {
    /// Returns the condition on an event `e`: $3 aggregate types, $4 event types, $5 tenant, $6 slots, a bit for each.
    fn condition(self) -> String {
        let of_stream =
            |column: &str| format!("(SELECT s.{column} FROM {{schema}}.streams s WHERE s.stream_no = e.stream_no)");
        let parts = [
            self.has_slots.then(|| "get_bit($6::bytea, (e.stream_no & 255)::integer) = 1".to_owned()),
            self.has_event_types.then(|| "e.event_type = ANY ($4::text[])".to_owned()),
            self.has_aggregate_types.then(|| format!("{} = ANY ($3::text[])", of_stream("aggregate_type"))),
            self.has_tenant.then(|| format!("{} = $5::uuid", of_stream("tenant_id"))),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "true".to_owned() } else { parts.join("\n    AND ") }
    }
}

/// The parts of `append_streams.sql` that an append needs: each part costs the server time, even if it finds no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AppendParts {
    /// It has tags, or a condition.
    pub(crate) has_tags: bool,
    /// It changes unique values.
    pub(crate) has_values: bool,
    /// It notes a delivery or a command.
    pub(crate) has_note: bool,
    /// The store may not have listed the types of its events.
    pub(crate) lists_types: bool,
}

impl AppendParts {
    /// Returns `true` if an append needs the lines after `-- if <part>`.
    fn has(self, part: &str) -> bool {
        match part {
            "tags" => self.has_tags,
            "values" => self.has_values,
            "note" => self.has_note,
            "types" => self.lists_types,
            _ => false,
        }
    }
}

/// Marks a text that the server plans once for a connection, not at each call: planning it takes as long as running it,
/// and the plan does not depend on the parameters.
const PLANNED_ONCE: &str = "{planned_once}";

/// The parameters of `append_many.sql`: seven of streams, and the ten columns of events.
const APPEND_MANY_PARAMETERS: usize = 17;

const IN_TRANSACTION: &str = " -- in a transaction";

/// How an append claims the row of its stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Claim {
    Any,
    /// The row has a version above 0.
    Existing,
    /// There is no row.
    New,
    /// The row has this version.
    Exact(Version),
}

impl Claim {
    /// Returns the claim for an expected version, where a stream without events has no row.
    pub(crate) fn new(expected: ExpectedVersion) -> Self {
        match expected {
            ExpectedVersion::Any => Self::Any,
            ExpectedVersion::StreamExists => Self::Existing,
            ExpectedVersion::NoStream | ExpectedVersion::Exact(Version::NONE) => Self::New,
            ExpectedVersion::Exact(version) => Self::Exact(version),
        }
    }

    /// Returns the claim for an expected version, where a stream without events has a row.
    pub(crate) fn of_row(expected: ExpectedVersion) -> Self {
        match Self::new(expected) {
            Self::New => Self::Exact(Version::NONE),
            claim => claim,
        }
    }
}

/// The events of an append to one stream, as its statement takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventParameters {
    /// One event, a parameter per column.
    One,
    /// Any number of events, one array per column.
    Arrays,
}

/// How an append to several streams claims their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamClaims {
    /// Each at its own expected version, with a row or without.
    Any,
    /// There are no rows.
    New,
}

/// Where the server ends a page, beside its most events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageEnd {
    AtEvents,
    /// At [`PAGE_BYTES`] of payloads: summing up their sizes costs the server twice as much as the page without it.
    AtBytes,
}

/// The statements of a store: texts of `sql/`, each filled in when it is first used.
#[derive(Debug)]
pub(crate) struct Statements {
    schema: Schema,
    /// Set if the table of events is partitioned.
    is_partitioned: bool,
    /// Ends the text of each statement.
    suffix: &'static str,
    /// Locked to look up or to add a statement, as all tasks share them.
    filled: RwLock<HashMap<Template, SqlStr>>,
}

impl Statements {
    pub(crate) fn new(schema: Schema, is_partitioned: bool) -> Self {
        Self { schema, is_partitioned, suffix: "", filled: RwLock::default() }
    }

    /// Returns the same statements for transactions of handlers and of the application, as different texts.
    ///
    /// Invariant: a text runs either with [`PLANNER_SETTINGS`](crate::pool::PLANNER_SETTINGS) or without. The server
    /// keeps the plan of a text on a connection, and on a pool of the application both kinds share the connections.
    pub(crate) fn in_transactions(&self) -> Self {
        Self { suffix: IN_TRANSACTION, ..Self::new(self.schema.clone(), self.is_partitioned) }
    }

    pub(crate) const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns the statement of a text of `sql/`.
    pub(crate) fn get(&self, sql: &'static str) -> SqlStr {
        self.get_or_fill(template(sql, "", Variant::DoesMore(false)), || without_comments(sql))
    }

    /// Returns the statement of a text of `sql/`, for binding its parameters.
    pub(crate) fn query(&self, sql: &'static str) -> Query<'static> {
        sqlx::query(self.get(sql))
    }

    /// Returns the statement of a process's heartbeat; it may renew its shards.
    pub(crate) fn heartbeat(&self, renews: bool) -> Query<'static> {
        let sql = include_str!("sql/heartbeat.sql");
        let held = match renews {
            true => include_str!("sql/beat_renewed.sql"),
            false => include_str!("sql/beat_held.sql"),
        };
        let fill = || without_comments(sql).replace("{held}", &without_comments(held));
        sqlx::query(self.get_or_fill(template(sql, held, Variant::DoesMore(false)), fill))
    }

    /// Returns the statement that reads a page of `rows`, a text of `sql/`, which are events of one stream.
    pub(crate) fn stream_page(&self, rows: &'static str, order: &'static str) -> Query<'static> {
        self.page(rows, order, "", PageEnd::AtBytes)
    }

    /// Returns the statement that counts the events of a range that match a filter.
    pub(crate) fn count_filtered(&self, shape: FilterShape) -> Query<'static> {
        let sql = include_str!("sql/count_events.sql");
        let template = template(sql, "", Variant::Filter(false, shape));
        sqlx::query(self.get_or_fill(template, || without_comments(sql).replace("{wanted}", &shape.condition())))
    }

    /// Returns the statement that reads a page of the feed with a filter.
    pub(crate) fn filtered_page(&self, shape: FilterShape, end: PageEnd) -> Query<'static> {
        self.page_of_filter(include_str!("sql/record.sql"), shape, end)
    }

    /// Returns the statement that reads what a fold needs of a page of the feed with a filter.
    pub(crate) fn visited_page(&self, shape: FilterShape, end: PageEnd) -> Query<'static> {
        self.page_of_filter(include_str!("sql/visited.sql"), shape, end)
    }

    fn page_of_filter(&self, columns: &'static str, shape: FilterShape, end: PageEnd) -> Query<'static> {
        let rows = include_str!("sql/read_filtered.sql");
        let template = template(rows, columns, Variant::Filter(end == PageEnd::AtBytes, shape));
        sqlx::query(self.get_or_fill(template, || {
            let text = page_text(rows, "position", "", end);
            text.replace("{record}", columns.trim()).replace("{wanted}", &shape.condition())
        }))
    }

    /// Returns the statement that reads a page of the feed without a filter, and for the first event whether the event before it in its stream is there.
    pub(crate) fn whole_feed_page(&self, rows: &'static str, end: PageEnd) -> Query<'static> {
        self.page(rows, "position", include_str!("sql/first_has_former.sql"), end)
    }

    /// Returns the statement that reads the events at positions, and for each whether the event before it in its stream is there.
    pub(crate) fn page_at_positions(&self) -> Query<'static> {
        self.page(include_str!("sql/read_at.sql"), "place", ", {has_former}", PageEnd::AtBytes)
    }

    fn page(
        &self,
        rows: &'static str,
        order: &'static str,
        more_columns: &'static str,
        end: PageEnd,
    ) -> Query<'static> {
        let template = template(rows, order, Variant::DoesMore(end == PageEnd::AtBytes));
        sqlx::query(self.get_or_fill(template, || page_text(rows, order, more_columns, end)))
    }

    /// Returns the statement that reads a snapshot and the first page of the events after it.
    pub(crate) fn read_from_snapshot(&self) -> Query<'static> {
        let (sql, rows) = (include_str!("sql/read_snapshot.sql"), include_str!("sql/read_after_snapshot.sql"));
        sqlx::query(self.get_or_fill(template(sql, rows, Variant::DoesMore(false)), || {
            without_comments(sql).replace("{page}", &page_text(rows, "version", "", PageEnd::AtBytes))
        }))
    }

    /// Returns the statement that reads a page of tagged events, and the position up to which it searched.
    pub(crate) fn tagged_page(&self) -> Query<'static> {
        self.page_of_tags(include_str!("sql/read_tagged.sql"))
    }

    /// Returns the statement that reads the counts of a boundary and a page of its events.
    pub(crate) fn boundary_page(&self) -> Query<'static> {
        self.page_of_tags(include_str!("sql/read_boundary.sql"))
    }

    fn page_of_tags(&self, sql: &'static str) -> Query<'static> {
        let rows = include_str!("sql/read_tagged_rows.sql");
        sqlx::query(self.get_or_fill(template(sql, rows, Variant::DoesMore(false)), || {
            without_comments(sql).replace("{page}", &page_text(rows, "position", "", PageEnd::AtBytes))
        }))
    }

    /// Returns the statement that appends to several streams, or to none.
    pub(crate) fn append_streams(&self, parts: AppendParts) -> Query<'static> {
        let sql = include_str!("sql/append_streams.sql");
        let template = template(sql, "", Variant::Append(parts));
        sqlx::query(self.get_or_fill(template, || without_comments(&with_parts(sql, parts))))
    }

    /// Returns the statement that claims one stream at the expected version, and appends.
    pub(crate) fn single_stream_append(
        &self,
        claim: Claim,
        events: EventParameters,
        lists_types: bool,
    ) -> Query<'static> {
        let claim = match claim {
            Claim::Any => include_str!("sql/claim_any.sql"),
            Claim::Existing => include_str!("sql/claim_existing.sql"),
            Claim::Exact(_) => include_str!("sql/claim_exact.sql"),
            Claim::New => include_str!("sql/claim_new.sql"),
        };
        // a plain table has one key over all event ids; with a look-up, the server would plan each append anew
        let repeat = if self.is_partitioned { include_str!("sql/is_repeat.sql").trim() } else { "false" };
        let (events, count, ids) = match events {
            EventParameters::One => (include_str!("sql/append_one.sql"), "1", "ARRAY[$4::uuid]"),
            EventParameters::Arrays => (include_str!("sql/append_array.sql"), "cardinality($4::uuid[])", "$4::uuid[]"),
        };
        sqlx::query(self.get_or_fill(template(events, claim, Variant::DoesMore(lists_types)), || {
            let sql = append_text(include_str!("sql/append.sql"), claim, lists_types);
            sql.replace("{events}", &without_comments(events))
                .replace("{count}", count)
                .replace("{is_repeat}", &repeat.replace("{ids}", ids))
        }))
    }

    /// Returns the statement that appends to any number of streams, with room for parameters of `bytes`.
    pub(crate) fn multi_stream_append(&self, claims: StreamClaims, lists_types: bool, bytes: usize) -> Query<'static> {
        let claims = match claims {
            StreamClaims::Any => include_str!("sql/claims_of_any.sql"),
            StreamClaims::New => include_str!("sql/claims_of_new.sql"),
        };
        let mut parameters = PgArguments::default();
        parameters.reserve(APPEND_MANY_PARAMETERS, bytes);
        let sql = include_str!("sql/append_many.sql");
        let fill = || append_text(sql, claims, lists_types);
        sqlx::query_with(self.get_or_fill(template(sql, claims, Variant::DoesMore(lists_types)), fill), parameters)
    }

    fn get_or_fill(&self, template: Template, fill: impl FnOnce() -> String) -> SqlStr {
        if let Some(filled) = self.filled.read().get(&template) {
            return filled.clone();
        }
        // as in an append to a single stream
        let is_stored = if self.is_partitioned { include_str!("sql/is_stored.sql").trim() } else { "false" };
        // a transaction of the caller keeps its own limit
        let patience = match self.suffix {
            "" => "set_config('lock_timeout', '100ms', true)",
            _ => "current_setting('lock_timeout')",
        };
        let lock_bound = without_comments(include_str!("sql/lock_bound.sql"));
        let lock_bound = match self.suffix {
            "" => lock_bound,
            _ => without_comments(include_str!("sql/lock_bound_once.sql")).replace("{lock_bound}", &lock_bound),
        };
        let sql = fill()
            .replace("{patience}", patience)
            .replace("{lock_bound}", &lock_bound)
            .replace("{record}", include_str!("sql/record.sql").trim())
            .replace("{fields}", include_str!("sql/fields.sql").trim())
            .replace("{has_former}", &without_comments(include_str!("sql/has_former.sql")))
            .replace("{is_stream}", include_str!("sql/is_stream.sql").trim())
            .replace("{is_free_shard}", include_str!("sql/is_free_shard.sql").trim())
            .replace("{is_last_read}", include_str!("sql/is_last_read.sql").trim())
            .replace("{shard_of_row}", include_str!("sql/shard_of_row.sql").trim())
            .replace("{driving_tags}", &without_comments(include_str!("sql/driving_tags.sql")))
            .replace("{matching_positions}", &without_comments(include_str!("sql/matching_positions.sql")))
            .replace("{counts}", &without_comments(include_str!("sql/count_tags.sql")))
            .replace("{insert_types}", include_str!("sql/insert_types.sql").trim())
            .replace("{is_stored}", is_stored)
            .replace("{appended_in}", &without_comments(include_str!("sql/appended_in.sql")));
        let sql = match sql.contains(PLANNED_ONCE) {
            true => hide_parameters(&sql.replace(PLANNED_ONCE, "")),
            false => sql,
        };
        let sql = sql + self.suffix;
        self.filled.write().entry(template).or_insert(self.schema.statement(&sql)).clone()
    }
}

/// Hides the parameters from the planner, as `(SELECT $1::text[])::text[]`: so a plan for the given values, made at
/// each call, seems no cheaper than the generic one.
fn hide_parameters(sql: &str) -> String {
    let mut parts = sql.split('$');
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // `1::text[], ..`
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != ':').unwrap_or(part.len());
        let end = if part[end..].starts_with("[]") { end + 2 } else { end };
        let (parameter, rest) = part.split_at(end);
        hidden += &match parameter.split_once("::") {
            Some((_, of_type)) => format!("(SELECT ${parameter})::{of_type}{rest}"),
            None => format!("${part}"),
        };
    }
    hidden
}

/// Returns the text of a page of `rows`.
fn page_text(rows: &str, order: &str, more_columns: &str, end: PageEnd) -> String {
    let stored_bytes = PAGE_BYTES + 4 * PAGE_EVENTS_MAX as usize;
    let rows = without_comments(rows);
    let page = match (end, rows.strip_prefix("SELECT e.*")) {
        // without a subquery each row goes through one step less
        (PageEnd::AtEvents, Some(rest)) => format!("SELECT {{record}}{{more_columns}}{rest}"),
        (PageEnd::AtEvents, None) => {
            format!("SELECT {{record}}{{more_columns}} FROM (\n{rows}\n) e ORDER BY {{order}}")
        }
        (PageEnd::AtBytes, _) => without_comments(include_str!("sql/page.sql")).replace("{rows}", &rows),
    };
    page.replace("{more_columns}", &without_comments(more_columns))
        .replace("{order}", order)
        .replace("{page_bytes}", &PAGE_BYTES.to_string())
        .replace("{stored_bytes}", &stored_bytes.to_string())
}

/// Removes the lines between `-- if <part>` and `-- end` of the parts that an append does not need.
fn with_parts(sql: &str, parts: AppendParts) -> String {
    let mut are_needed = Vec::new();
    let lines = sql.lines().filter(|line| {
        match line.strip_prefix("-- if ") {
            Some(part) => are_needed.push(parts.has(part)),
            None if *line == "-- end" => drop(are_needed.pop()),
            None => {}
        }
        are_needed.iter().all(|is_needed| *is_needed)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the text of an append: claims its streams, and may list the types of its events.
fn append_text(sql: &str, claim: &str, lists_types: bool) -> String {
    let list = format!(", event_type, schema_version\n{}", without_comments(include_str!("sql/list_types.sql")));
    let (stored, listed) = if lists_types { (",\nstored AS (", &*list) } else { ("", "") };
    let sql = without_comments(sql).replace("{claim}", &without_comments(claim));
    sql.replace("{stored}", stored).replace("{listed}", listed)
}

/// Removes the comments: the text is the key of the statement cache, and the server shows it as running.
fn without_comments(sql: &str) -> String {
    let lines: Vec<_> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n").trim().into()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use eventbus::{Name, NewEvent};
    use uuid::Uuid;

    use sqlx::{AssertSqlSafe, Connection as _, Execute as _, Executor as _, PgConnection, SqlSafeStr as _};

    use super::*;
    use crate::{PgEventStore, PgEventStoreConfig, columns::bind_events};

    async fn connection(name: &str) -> PgConnection {
        let mut connection = PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
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

    #[test]
    fn an_append_has_a_statement_without_the_parts_that_it_does_not_need() {
        let statements = Statements::new(Schema::new("store").unwrap(), false);
        let all = AppendParts { has_tags: true, has_values: true, has_note: true, lists_types: true };
        let with = statements.append_streams(all).sql();
        assert!(!with.as_str().contains("\n--"));
        let parts = [
            (AppendParts { has_tags: false, ..all }, &["tag_judged", "boundary_moved", "$30"][..]),
            (AppendParts { has_values: false, ..all }, &["unique_values", "raced AS", "$23"]),
            (AppendParts { has_note: false, ..all }, &["deliveries", "commanded", "$18", "$27"]),
            (AppendParts { lists_types: false, ..all }, &["event_types"]),
        ];
        for (number, (without, _)) in parts.iter().enumerate() {
            let sql = statements.append_streams(*without).sql();
            for (other, (_, marks)) in parts.iter().enumerate() {
                for mark in *marks {
                    assert!(with.as_str().contains(mark), "{mark}");
                    assert_eq!(sql.as_str().contains(mark), other != number, "{mark} in {}", sql.as_str());
                }
            }
        }
    }

    /// Appends an event to each of two streams in one statement; returns the number of stored events.
    async fn append_to_both(schema: Schema, sql: SqlStr, name: String, streams: [&str; 2]) -> sqlx::Result<usize> {
        let events = [(); 2].map(|()| NewEvent::new(Name::from_static("Deposited"), 1, "{}"));
        let mut connection = connection(&name).await;
        run(&mut connection, &schema.fill_placeholders("SET search_path TO {schema}")).await;
        let query = sqlx::query(sql).bind(streams.to_vec()).bind(vec!["Account"; 2]);
        let query = query.bind(vec![Uuid::nil(); 2]).bind(vec![-1_i64; 2]);
        let query = query.bind(vec![1_i64; 2]).bind(vec![1_i64, 2]).bind(vec![1_i64; 2]);
        Ok(bind_events(query, &events.iter()).fetch_all(&mut connection).await?.len())
    }

    const BOTH: [&str; 2] = ["first", "second"];

    /// Two statements append to the same two streams and meet half-way: the first has inserted one stream, which the
    /// second inserts too, and is about to insert the other stream. Before the second begins, `between` runs.
    ///
    /// Returns the results of both, if they wait for each other without a limit.
    async fn meet_half_way(
        claims: StreamClaims,
        edit: impl Fn(&str) -> String,
        between: &str,
        streams_of_second: [&'static str; 2],
    ) -> [sqlx::Result<usize>; 2] {
        let schema = Schema::new(&eventbus_test::unique_name("store")).unwrap();
        let database_url = eventbus_test::postgres_url().to_owned();
        let config = PgEventStoreConfig { database_url, schema: schema.name().into(), ..Default::default() };
        drop(PgEventStore::connect_with(config).await.unwrap());
        let sql = Statements::new(schema.clone(), false).multi_stream_append(claims, false, 0).sql();
        assert!(sql.as_str().contains("'100ms'"));
        let sql: Arc<str> = edit(&sql.as_str().replace("'100ms'", "'0'")).into();
        let start = |name: &str, streams: [&'static str; 2]| {
            let sql = AssertSqlSafe(sql.to_string()).into_sql_str();
            tokio::spawn(append_to_both(schema.clone(), sql, name.to_owned(), streams))
        };

        let (one, other) = (eventbus_test::unique_name("one"), eventbus_test::unique_name("other"));
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
        let first = start(&one, BOTH);
        until_blocked(&mut watcher, &one).await;
        run(&mut watcher, &schema.fill_placeholders(between)).await;
        let second = start(&other, streams_of_second);
        until_blocked(&mut watcher, &other).await;
        run(&mut gate, &schema.fill_placeholders("SELECT pg_advisory_unlock({namespace})")).await;
        let results = [first.await.unwrap(), second.await.unwrap()];
        run(&mut gate, &schema.fill_placeholders("DROP SCHEMA {schema} CASCADE")).await;
        results
    }

    /// Makes a stream, so that the second statement finds and claims it; the first began before and does not see it.
    const MAKE_SECOND_STREAM: &str =
        "INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
         VALUES ('second', 'Account', '00000000-0000-0000-0000-000000000000', 0, now())";

    fn deadlocks(results: &[sqlx::Result<usize>]) -> usize {
        let errors = results.iter().filter_map(|result| result.as_ref().err()?.as_database_error());
        errors.filter(|error| error.code().as_deref() == Some("40P01")).count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn appends_to_streams_that_others_make_meanwhile_do_not_wait_in_a_circle() {
        let results = meet_half_way(StreamClaims::Any, str::to_owned, MAKE_SECOND_STREAM, BOTH).await;
        let [Ok(1), Ok(1)] = results else { panic!("each one appends to the stream that it got: {results:?}") };
    }

    /// Shows that the steps above find a deadlock where there is one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_updates_before_he_inserts_waits_in_a_circle() {
        let inserted = ", (SELECT count(*) FROM made) inserted";
        let edit = |sql: &str| {
            assert!(sql.contains(inserted));
            sql.replace(inserted, "")
        };
        let results = meet_half_way(StreamClaims::Any, edit, MAKE_SECOND_STREAM, BOTH).await;
        assert_eq!(deadlocks(&results), 1, "{results:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn appends_to_the_same_new_streams_do_not_wait_in_a_circle() {
        let given = ["second", "first"];
        let results = meet_half_way(StreamClaims::New, str::to_owned, "SELECT", given).await;
        let [Ok(2), Ok(0)] = results else { panic!("the first one makes both streams: {results:?}") };
        let edit = |sql: &str| {
            let order = r#"ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C", w.tenant_id"#;
            assert!(sql.contains(order));
            sql.replace(order, "")
        };
        let results = meet_half_way(StreamClaims::New, edit, "SELECT", given).await;
        assert_eq!(deadlocks(&results), 1, "in the order given: {results:?}");
    }
}
