//! The plans of the hot statements, kept beside their texts: `sql/read_page.plan` is the plan of `sql/read_page.sql`. A
//! text with optional parts has several: `sql/append_decision.plan` is the plan of `sql/append_streams.sql` with tags.
//!
//! A file has the plan that the server keeps for a connection, as it ran in a store of 1,000,000 events, and with
//! statistics. The test compares its steps, which table each reads and along which index, with those of a smaller
//! store, without statistics and with them. Numbers of rows and pages are for the reader alone.

use std::{env, fs, path::PathBuf};

use eventbus::Version;
use sqlx::{AssertSqlSafe, Connection as _, Execute as _, Executor as _, PgConnection, SqlStr};

use crate::{
    PgEventStore,
    pool::{PLANNER_SETTINGS, Query},
    schema::Schema,
    statements::{AppendParts, Claim, EventParameters, FilterShape, PageEnd, Statements, StreamClaims},
};

/// The events of the store whose plans are kept, and of the store of `cargo test`.
const KEPT_AT: usize = 1_000_000;
const TESTED_AT: usize = 100_000;

const ORDERS: usize = 10_000;
const NO_TENANT: &str = "00000000-0000-0000-0000-000000000000";

/// The types of the parameters of an append with tags, also of those that it does not use: of values, delivery and
/// command.
const TYPES_WITH_TAGS: &str = "(text[], text[], uuid[], bigint[], bigint[], bigint[], bigint[], \
    uuid[], text[], integer[], timestamptz[], text[], uuid[], uuid[], text[], text[], timestamptz[], \
    text, uuid, text, text, uuid, bigint[], text[], text[], uuid, text, uuid, text, \
    text[], text[], uuid[], text[], bigint[], text[], bigint[], bigint[])";

/// `EVENTBUS_BLESS=1` writes the files, `EVENTBUS_PLAN_EVENTS` sets the number of events.
const COMMAND: &str = "EVENTBUS_BLESS=1 cargo test -p eventstore-postgres --lib query_plans";

/// Events of all orders, in turn, of which one of a hundred is `Rare`, and one of ten has two tags. Each order has a
/// unique number. There are more leases and checkpoints than a store has, so that statistics do not change how they are found.
const FILL: &str = "
    ALTER TABLE {schema}.events SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.streams SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.tags SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.tagged_events SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.snapshots SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.unique_values SET (autovacuum_enabled = off);
    ALTER TABLE {schema}.leases SET (autovacuum_enabled = off);
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    SELECT 'order-' || i, 'Order', '{no_tenant}', {events} / {orders}, now()
    FROM generate_series(1, {orders}) i;
    INSERT INTO {schema}.events (
        position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type, payload,
        tags)
    SELECT i, (i - 1) % {orders} + 1, (i - 1) / {orders} + 1, now(), now(), lpad(to_hex(i), 32, '0')::uuid, gen_random_uuid(), 1,
        CASE WHEN i % 100 = 0 THEN 'Rare' ELSE 'Added' END, json_build_object('text', repeat('x', 200)),
        CASE WHEN i % 10 = 5 THEN ARRAY['course:' || i % 1000, 'student:' || i / 30] END
    FROM generate_series(1, {events}) i;
    SELECT setval('{schema}.events_position_seq', {events});
    INSERT INTO {schema}.event_types VALUES ('Added', 1, 1), ('Rare', 1, 100);
    INSERT INTO {schema}.tags (tenant_id, tag, counts)
    SELECT '{no_tenant}', t.tag, jsonb_build_object('Added', count(*))
    FROM {schema}.events e, unnest(e.tags) t(tag)
    GROUP BY t.tag;
    INSERT INTO {schema}.tagged_events (tag_no, position)
    SELECT t.tag_no, e.position FROM {schema}.events e, unnest(e.tags) o(tag) JOIN {schema}.tags t ON t.tag = o.tag
    ORDER BY 1, 2;
    INSERT INTO {schema}.unique_values (value, scope, tenant_id, stream_no)
    SELECT 'number-' || i, 'Order.number', '{no_tenant}', i FROM generate_series(1, {orders}) i;
    INSERT INTO {schema}.checkpoints
    SELECT CASE i WHEN 1 THEN 'orders' ELSE 'role-' || i END, 1, now() FROM generate_series(1, 1000) i;
    INSERT INTO {schema}.leases
    SELECT CASE i WHEN 1 THEN 'orders' ELSE 'role-' || i END, 'owner', 1, now(), now() + interval '1 hour'
    FROM generate_series(1, 1000) i;
    INSERT INTO {schema}.handlers SELECT 'handler-' || i, '{}' FROM generate_series(1, 100) i;
    INSERT INTO {schema}.handler_shards (handler, shard, checkpoint, owner, epoch, renewed_at, expires_at)
    SELECT 'handler-' || i, n, 1, 'process', 1, now(), now() + interval '1 hour'
    FROM generate_series(1, 100) i, generate_series(0, 15) n;
    INSERT INTO {schema}.handler_rows (handler, shard, position, attempts, dead_since, is_held)
    SELECT 'handler-' || i % 100 + 1, i % 16, i, '{}', CASE WHEN i % 10 > 0 THEN now() END, false
    FROM generate_series(1, 10000) i;
    INSERT INTO {schema}.handler_members (name, handlers, seen_at) VALUES ('process', '{}', now());
    INSERT INTO {schema}.snapshots
    SELECT s.stream_no, 5, now(), 'Order', 'state' FROM {schema}.streams s";

/// The statements that run in transactions of handlers and projections, too, whose connections have no
/// [`PLANNER_SETTINGS`].
const IN_TRANSACTIONS: [&str; 5] = ["append_one", "append", "append_streams", "note_delivery", "advance"];

/// A statement whose plan is kept.
struct HotStatement {
    /// The name of its plan in `sql/`.
    name: &'static str,
    sql: SqlStr,
    /// The types of its parameters, in parentheses, where it does not use all of them; else empty.
    types: &'static str,
    /// Its parameters, as SQL.
    parameters: String,
    /// Set if a step may sort rows; else an index has them in their order.
    may_sort: bool,
}

/// Returns the statements, with parameters for a store of so many events.
fn hot_statements(statements: &Statements, events: usize) -> Vec<HotStatement> {
    let (middle, version) = (events / 2, events / ORDERS);
    let order = format!("'order-7', 'Order', '{NO_TENANT}'");
    let new_events = |number: usize| {
        let column = |value: &str, of_type: &str| format!("ARRAY[{}]::{of_type}[]", vec![value; number].join(", "));
        let ids = column("gen_random_uuid()", "uuid");
        let (types, versions, times) =
            (column("'Added'", "text"), column("1", "integer"), column("now()", "timestamptz"));
        let (payloads, texts) = (column("'{}'", "text"), column("NULL", "text"));
        let (nulls, no_times) = (column("NULL", "uuid"), column("NULL", "timestamptz"));
        format!("{ids}, {types}, {versions}, {times}, {payloads}, {ids}, {nulls}, {texts}, {texts}, {no_times}")
    };
    let new_event = "gen_random_uuid(), 'Added', 1, now(), '{}', gen_random_uuid(), NULL, NULL, NULL, NULL";
    let streams =
        format!("'{{order-7,new}}', '{{Order,Order}}', '{{{NO_TENANT},{NO_TENANT}}}', '{{{version},0}}', '{{1,1}}'");
    let new_streams =
        format!("'{{new-1,new-2}}', '{{Order,Order}}', '{{{NO_TENANT},{NO_TENANT}}}', '{{0,0}}', '{{1,1}}'");
    let one_tag = format!("0, {events}, NULL, '{{Added}}', NULL, NULL, '{{1}}', '{{1}}', '{{course:105}}', 5000");
    let both_tags = format!(
        "0, {events}, NULL, '{{Added}}', '{NO_TENANT}', NULL, '{{1,1}}', '{{2,2}}', '{{course:105,student:3}}', 5000, 1000"
    );
    let hot = |name, query: Query<'static>, parameters, may_sort| HotStatement {
        name,
        sql: query.sql(),
        types: "",
        parameters,
        may_sort,
    };
    let append_of = |events| statements.single_stream_append(Claim::Exact(Version::FIRST), events, false);
    let (append_one, append) = (append_of(EventParameters::One), append_of(EventParameters::Arrays));
    let append_many = statements.multi_stream_append(StreamClaims::Any, false, 0);
    let claims_of_new = statements.multi_stream_append(StreamClaims::New, false, 0);
    let read_page = statements.whole_feed_page(include_str!("sql/read_page.sql"), PageEnd::AtEvents);
    let of_types = FilterShape { has_event_types: true, ..FilterShape::default() };
    let filtered = |name, query, event_type| HotStatement {
        types: "(bigint, bigint, text[], text[], uuid, bytea)",
        ..hot(name, query, format!("{middle}, {events}, NULL, '{{{event_type}}}', NULL, NULL, 1000"), false)
    };
    let read_filtered = statements.filtered_page(of_types, PageEnd::AtEvents);
    let visited_page = statements.visited_page(of_types, PageEnd::AtEvents);
    let without_tags = AppendParts { has_tags: false, has_values: true, has_note: true, lists_types: true };
    let append_streams = statements.append_streams(without_tags);
    let new_value = "NULL, NULL, NULL, NULL, NULL, '{1}', '{Order.number}', '{new}', NULL, NULL, NULL, NULL";
    // a decision about a course and a student, whose event has both tags
    let decided = AppendParts { has_tags: true, has_values: false, has_note: false, lists_types: false };
    let append_decision = HotStatement {
        types: TYPES_WITH_TAGS,
        ..hot(
            "append_decision",
            statements.append_streams(decided),
            format!(
                "'{{new}}', '{{Order}}', '{{{NO_TENANT}}}', '{{-1}}', '{{1}}', '{{1}}', '{{1}}', {}, \
                 NULL, NULL, NULL, NULL, NULL, '{{}}', '{{}}', '{{}}', NULL, NULL, NULL, NULL, \
                 ARRAY['{{course:105,student:3}}'], '{{course:105,student:3}}', '{{{NO_TENANT},{NO_TENANT}}}', \
                 ARRAY['{{\"Added\":1}}', '{{\"Added\":1}}'], '{{{},3}}', '{{Added}}', '{{1,1}}', '{{1,2}}'",
                new_events(1),
                events / 1_000
            ),
            true,
        )
    };
    let read_forward = statements.stream_page(include_str!("sql/read_forward.sql"), "version");
    let read_backward = statements.stream_page(include_str!("sql/read_backward.sql"), "version DESC");
    let missing_version = statements.query(include_str!("sql/missing_version.sql"));
    let visit = statements.query(include_str!("sql/visit.sql"));
    let head = statements.query(include_str!("sql/head.sql"));
    let save_checkpoint = statements.query(include_str!("sql/save_checkpoint.sql"));
    let list_streams = statements.query(include_str!("sql/list_streams.sql"));
    let streams_of_page = statements.query(include_str!("sql/streams.sql"));
    let reach = statements.query(include_str!("sql/reach.sql"));
    let count_versions = statements.query(include_str!("sql/count_versions.sql"));
    let note_delivery = statements.query(include_str!("sql/note_delivery.sql"));
    let advance = statements.query(include_str!("sql/advance.sql"));
    let count_tagged_events = statements.query(include_str!("sql/count_tagged_events.sql"));
    let shards = "'{handler-1,handler-2}', '{3,5}', '{1,1}'";
    let last_read = format!("'process', {events}, lpad(to_hex({events}), 32, '0')::uuid");
    let progress =
        format!("{last_read}, {shards}, '{{5,5}}', ARRAY['{{1,2}}', '{{}}'], ARRAY['{{}}', '{{}}'], '{{t,f}}'");
    let save_shards = statements.query(include_str!("sql/save_shards.sql"));
    let save_shards_with_rows = statements.query(include_str!("sql/save_shards_with_rows.sql"));
    let with_rows = "ARRAY['{}', '{\"Added\":null}'], '{f,f}', '{handler-1}', '{3}', '{7}', '{\"{}\"}', ARRAY[now()], '{f}', \
                     '{handler-2}', '{5}', '{8}'";
    let acquired = "'process', '{handler-1,handler-2}', '{3,5}', 10000000".to_owned();
    let acquire_shards = statements.query(include_str!("sql/acquire_shards.sql"));
    let live_handler_rows = statements.query(include_str!("sql/live_handler_rows.sql"));
    let dead_rows = statements.query(include_str!("sql/dead_rows.sql"));
    let dead_after = format!("now() - interval '1 hour', {middle}, 'handler-1', 100");
    let of_slots = FilterShape { has_slots: true, ..FilterShape::default() };
    let read_slots = HotStatement {
        types: "(bigint, bigint, text[], text[], uuid, bytea)",
        ..hot(
            "read_slots",
            statements.filtered_page(of_slots, PageEnd::AtEvents),
            format!("{middle}, {events}, NULL, NULL, NULL, decode(repeat('11', 32), 'hex'), 1000"),
            false,
        )
    };
    vec![
        hot("append_one", append_one, format!("{order}, {new_event}, {version}"), false),
        hot("append", append, format!("{order}, {}, {version}", new_events(1)), true),
        hot("append_many", append_many, format!("{streams}, '{{1,2}}', '{{1,1}}', {}", new_events(2)), true),
        hot(
            "append_streams",
            append_streams,
            format!("{streams}, '{{1,2}}', '{{1,1}}', {}, {new_value}", new_events(2)),
            true,
        ),
        append_decision,
        hot("claims_of_new", claims_of_new, format!("{new_streams}, '{{1,2}}', '{{1,1}}', {}", new_events(2)), true),
        hot("read_page", read_page, format!("{middle}, {events}, 1000"), false),
        filtered("read_filtered", read_filtered, "Rare"),
        filtered("visited", visited_page, "Added"),
        hot("read_forward", read_forward, format!("{order}, 1, 1000"), true),
        hot("read_backward", read_backward, format!("{order}, {version}, 1000"), true),
        hot("missing_version", missing_version, format!("7, 1, {version}"), true),
        hot("visit", visit, format!("{order}, 1, 10000"), false),
        hot("read_snapshot", statements.read_from_snapshot(), format!("{order}, 'Order', 1000"), true),
        hot("streams", streams_of_page, "'{7,8,9}'".into(), false),
        hot("reach", reach, format!("{middle}, {events}, 1000"), false),
        hot("count_versions", count_versions, format!("1, 1, {ORDERS}, 1000, 1000"), false),
        hot("note_delivery", note_delivery, format!("'mail/send', gen_random_uuid(), {order}"), false),
        hot("advance", advance, "'orders', 1, 1, 2".into(), false),
        hot(
            "heartbeat",
            statements.heartbeat(true),
            format!("'process', '{{handler-1}}', 10000000, {shards}, 10000000"),
            true,
        ),
        hot("save_shards", save_shards, progress.clone(), true),
        hot("save_shards_with_rows", save_shards_with_rows, format!("{progress}, {with_rows}"), true),
        hot("acquire_shards", acquire_shards, acquired, true),
        hot("live_handler_rows", live_handler_rows, "'{handler-1,handler-2}', '{3,5}'".into(), true),
        hot("dead_rows", dead_rows, dead_after, false),
        read_slots,
        hot("head", head, String::new(), false),
        hot("save_checkpoint", save_checkpoint, "'orders', 2".into(), false),
        hot("list_streams", list_streams, format!("'order-5', '', '{NO_TENANT}', 1000"), false),
        hot("count_tagged_events", count_tagged_events, one_tag.clone(), true),
        hot("read_tagged", statements.tagged_page(), format!("{one_tag}, 1000"), true),
        hot(
            "read_boundary",
            statements.boundary_page(),
            format!("{both_tags}, '{{course:105,student:3}}', '{{Added}}'"),
            true,
        ),
    ]
}

/// A connection to a filled store, with the settings of the store's connections, and the statements prepared.
struct FilledStore {
    connection: PgConnection,
    statements: Vec<HotStatement>,
}

impl FilledStore {
    async fn new(url: &str, events: usize) -> Self {
        let fill = FILL.replace("{events}", &events.to_string()).replace("{orders}", &ORDERS.to_string());
        Self::filled_with(&fill, url, events).await
    }

    async fn filled_with(fill: &str, url: &str, events: usize) -> Self {
        PgEventStore::connect(url).await.unwrap().close().await;
        let schema = Schema::new("eventbus").unwrap();
        let statements = hot_statements(&Statements::new(schema.clone(), false), events);
        let mut store = Self { connection: PgConnection::connect(url).await.unwrap(), statements };
        store.run(&schema.fill_placeholders(&fill.replace("{no_tenant}", NO_TENANT))).await;
        store.plan_as_statements().await;
        for number in 0..store.statements.len() {
            let HotStatement { name, sql, types, .. } = &store.statements[number];
            let prepare = format!("PREPARE {name}{types} AS {}", sql.as_str());
            store.run(&prepare).await;
        }
        store
    }

    async fn run(&mut self, sql: &str) {
        self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    /// Plans from now on as the connections of statements do.
    async fn plan_as_statements(&mut self) {
        for (name, value) in PLANNER_SETTINGS {
            self.run(&format!("SET {name} = {value}")).await;
        }
        self.run("DISCARD PLANS").await;
    }

    /// Plans from now on as the connections of transactions do.
    async fn plan_as_transactions(&mut self) {
        for (name, _) in PLANNER_SETTINGS {
            self.run(&format!("RESET {name}")).await;
        }
        self.run("DISCARD PLANS").await;
    }

    /// Returns the lines of the plan of each statement, which runs and is rolled back.
    async fn plans(&mut self, mode: &str) -> Vec<Vec<String>> {
        self.run(&format!("SET plan_cache_mode = {mode}")).await;
        let mut plans = Vec::new();
        for number in 0..self.statements.len() {
            let HotStatement { name, parameters, .. } = &self.statements[number];
            let parameters = if parameters.is_empty() { String::new() } else { format!("({parameters})") };
            let options = "ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF";
            let explain = format!("EXPLAIN ({options}) EXECUTE {name}{parameters}");
            let mut plan = Vec::new();
            // twice: the first run reads pages, and the system tables to plan
            for _ in 0..2 {
                self.run("BEGIN").await;
                let explain = sqlx::query_scalar(AssertSqlSafe(explain.clone()));
                plan = explain.fetch_all(&mut self.connection).await.unwrap();
                self.run("ROLLBACK").await;
            }
            plans.push(plan);
        }
        plans
    }
}

/// Returns the steps of a plan: `  ->  Index Scan using events_pkey on events w`, without their numbers and conditions.
fn steps(plan: &[impl AsRef<str>]) -> Vec<&str> {
    let lines = plan.iter().map(AsRef::as_ref).enumerate();
    let steps = lines.filter(|(number, line)| {
        let text = line.trim_start();
        *number == 0 || ["->", "CTE ", "InitPlan ", "SubPlan "].iter().any(|start| text.starts_with(start))
    });
    steps.map(|(_, line)| line.split(" (").next().unwrap_or_default()).collect()
}

/// Fails if a step reads all rows of a table, or sorts although an index has the rows in their order.
fn assert_along_keys(statement: &HotStatement, plan: &[String], case: &str) {
    let unwanted = ["Seq Scan", "Bitmap", "Sort"];
    assert_has_no(&unwanted[..if statement.may_sort { 2 } else { 3 }], statement, plan, case);
}

fn assert_has_no(unwanted: &[impl AsRef<str>], statement: &HotStatement, plan: &[String], case: &str) {
    // the processes and the paused groups are few
    let steps =
        steps(plan).into_iter().filter(|step| !step.contains("handler_members") && !step.contains("paused_groups"));
    let found = steps.into_iter().find(|step| unwanted.iter().any(|node| step.contains(node.as_ref())));
    assert_eq!(found, None, "{}, {case}:\n{}", statement.name, plan.join("\n"));
}

/// Fails if a step walks a whole index of a large table. The condition with which a step enters its index is in the line
/// below it.
fn assert_enters_each_index(statement: &HotStatement, plan: &[String], case: &str) {
    let walk = plan.iter().enumerate().find(|(number, line)| {
        let is_entered = plan.get(number + 1).is_some_and(|below| below.trim_start().starts_with("Index Cond"));
        let are_few = [" on leases ", " on handler_shards ", " on handler_members ", " on paused_groups "]
            .iter()
            .any(|table| line.contains(table));
        line.contains(" using ") && !are_few && !is_entered
    });
    assert_eq!(walk, None, "{}, {case}:\n{}", statement.name, plan.join("\n"));
}

fn kept_file(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/src/sql/{name}.plan", env!("CARGO_MANIFEST_DIR")))
}

/// Writes the plan of a statement.
fn write_plan(name: &str, events: usize, plan: &[String]) {
    let header = format!("-- {name} in a store of {events} events, written by: {COMMAND}");
    fs::write(kept_file(name), format!("{header}\n{}\n", plan.join("\n"))).unwrap();
}

fn assert_as_kept(name: &str, plan: &[String], case: &str) {
    let kept = fs::read_to_string(kept_file(name)).unwrap_or_default();
    let kept: Vec<_> = kept.lines().filter(|line| !line.starts_with("--")).collect();
    let [kept, found] = [steps(&kept), steps(plan)].map(|steps| steps.join("\n"));
    // the few types of events are joined in either way
    let [kept, found] = [kept, found].map(|steps| steps.replace("Merge Anti Join", "Nested Loop Anti Join"));
    assert!(kept == found, "{name}.plan has the steps\n{kept}\n\n{case} there are\n{found}\n\nto write it: {COMMAND}");
}

#[tokio::test]
async fn hot_statements_run_as_the_plans_beside_them_say() {
    let is_blessed = env::var("EVENTBUS_BLESS").is_ok_and(|value| value == "1");
    let events = env::var("EVENTBUS_PLAN_EVENTS").map(|events| events.parse().unwrap());
    let events = events.unwrap_or(if is_blessed { KEPT_AT } else { TESTED_AT });
    let database = eventbus_test::postgres();
    let mut store = FilledStore::new(database.url(), events).await;
    let mut found = Vec::new();
    for case in ["without statistics", "with statistics"] {
        if case == "with statistics" {
            store.run("VACUUM ANALYZE").await;
        }
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plans = store.plans(mode).await;
            for (statement, plan) in store.statements.iter().zip(&plans) {
                assert_along_keys(statement, plan, &format!("{case}, {mode}"));
            }
            found.push((format!("{case}, {mode},"), plans));
            store.plan_as_transactions().await;
            let plans = store.plans(mode).await;
            for (statement, plan) in store.statements.iter().zip(&plans) {
                if IN_TRANSACTIONS.contains(&statement.name) {
                    // the few types of events may be scanned, and a few rows by key be found by a bitmap
                    let scans = ["events", "streams", "unique_values", "checkpoints", "leases"];
                    let scans = scans.map(|table| format!("Seq Scan on {table}"));
                    assert_has_no(&scans, statement, plan, &format!("{case}, {mode}, in a transaction"));
                }
            }
            store.plan_as_statements().await;
        }
    }
    if is_blessed {
        for (statement, plan) in store.statements.iter().zip(&found[3].1) {
            write_plan(statement.name, events, plan);
        }
    }
    for (case, plans) in [&found[1], &found[3]] {
        for (statement, plan) in store.statements.iter().zip(plans) {
            assert_as_kept(statement.name, plan, case);
        }
    }
}

/// The server keeps the plan that it made when there were few rows, and statistics that say so.
#[tokio::test]
async fn statements_that_were_planned_for_few_streams_walk_no_whole_index() {
    for streams in [0, 1] {
        let fill = format!(
            "INSERT INTO {{schema}}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
             SELECT 'order-' || i, 'Order', '{{no_tenant}}', 0, now() FROM generate_series(1, {streams}) i;
             ANALYZE"
        );
        let database = eventbus_test::postgres();
        let mut store = FilledStore::filled_with(&fill, database.url(), 1).await;
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plans = store.plans(mode).await;
            for (statement, plan) in store.statements.iter().zip(&plans) {
                assert_enters_each_index(statement, plan, &format!("{streams} streams, {mode}"));
            }
        }
    }
}
