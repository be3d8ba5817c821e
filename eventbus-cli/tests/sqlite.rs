//! The command on an SQLite file whose application is down: what each subcommand shows, as text and as JSON.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    OrderPlaced, OrderShipped, Ran, Running, assert_json, eventbus, eventbus_unread, projections::Totals, send,
};
use eventbus::{
    EventContext, EventId, ExpectedVersion, InMemoryEventBus, Name, NewEvent, Position, StreamId, Uuid,
    app::SettleError,
    bus::EventBus,
    event::Attributes,
    port::{AppendEvents as _, Checkpoints as _, HandlerProgress as _, Leases as _},
    prelude::*,
    store::EventStore,
    support::ReaderKind,
};
use eventbus_cli::{
    connection::OpenBus,
    query::{DeadLetterQuery, find_dead_letters, search_dead_letters},
};
use eventstore_sqlite::SqliteEventStore;
use serde_json::json;
use tempfile::TempDir;

/// The store of an application that has ended.
struct DeadApp {
    folder: TempDir,
}

impl DeadApp {
    /// Three orders, one of a tenant; two are shipped, and of those mails cannot be sent.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
        for (id, tenant, shipped) in
            [("o-1", None, Some("p-1")), ("o-2", None, None), ("o-3", Some(Uuid::from_u128(7)), Some("p-3"))]
        {
            let stream = StreamId::parse("Order", id).unwrap().with_tenant_id(tenant);
            let mut events = vec![NewEvent::from_event(&OrderPlaced { cents: 120 }).unwrap()];
            events.extend(shipped.map(|parcel| NewEvent::from_event(&OrderShipped { parcel: parcel.into() }).unwrap()));
            store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
        }
        let app = App::builder().store(store).handler::<send>().projection(Totals).start().await.unwrap();
        assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 2, .. })));
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        drop(app);
        without_log(&folder.path().join("bank.db")).await;
        Self { folder }
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("bank.db").display())
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let url = self.url();
        let mut all = vec!["--store", &url];
        all.extend(arguments);
        eventbus(&all)
    }
}

/// Moves the write-ahead log of a store into its file.
async fn without_log(file: &Path) {
    let log = PathBuf::from(format!("{}-wal", file.display()));
    // the last connection that closes does so; of two that close at once, none is the last
    let closed = async {
        while log.exists() {
            let connection = rusqlite::Connection::open(file).unwrap();
            let _: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
            connection.close().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the store is closed");
}

fn head(table: &str) -> String {
    format!("{}\n", table.trim_matches('\n').lines().map(str::trim).collect::<Vec<_>>().join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_and_shown() {
    let app = DeadApp::new().await;
    let table = "
        TYPE  ID  EVENTS  LAST EVENT  TENANT
        Order  o-1  2  TIME
        Order  o-2  1  TIME
        Order  o-3  2  TIME  UUID";
    assert_eq!(app.run(&["streams", "list"]).masked(), head(table));
    let rows = |ran: &Ran| {
        let document = ran.masked_json();
        document["streams"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["aggregate_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = app.run(&["--json", "streams", "list", "--limit", "2"]);
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "streams": [
            { "aggregate_type": "Order", "aggregate_id": "o-1", "tenant": null, "version": 2, "recorded_at": "TIME" },
            { "aggregate_type": "Order", "aggregate_id": "o-2", "tenant": null, "version": 1, "recorded_at": "TIME" },
        ],
        "next": r#"["o-2","Order","UUID"]"#,
    });
    assert_json(&first.masked_json(), &wanted);
    let next = first.documents()[0]["next"].as_str().unwrap().to_owned();
    let second = app.run(&["--json", "streams", "list", "--limit", "2", "--after", &next]);
    assert_eq!(rows(&second), ["o-3"]);
    // the second is a cursor of a Redis
    for wrong in ["x", "5"] {
        let refused = app.run(&["streams", "list", "--after", wrong]);
        let says = refused.err.contains(&format!("`{wrong}` is no place where a page of streams begins"));
        assert!(refused.code == 64 && says, "{refused:?}");
    }
    assert_eq!(rows(&app.run(&["--json", "streams", "list", "--type", "Cart"])), [""; 0]);
    assert_eq!(rows(&app.run(&["--json", "streams", "list", "--type", "Order", "--id-prefix", "o-2"])), ["o-2"]);
    let tenant = Uuid::from_u128(7).to_string();
    assert_eq!(rows(&app.run(&["--json", "streams", "list", "--tenant", &tenant])), ["o-3"]);

    let text = "2  Order/o-1  v2  OrderShipped (schema 1)  TIME
  id  UUID
  correlation UUID
  fields  {\"parcel\":\"p-1\"}\n";
    assert_eq!(app.run(&["streams", "show", "Order", "o-1", "--from", "2"]).masked(), text);
    let shown = app.run(&["--json", "streams", "show", "Order", "o-3", "--tenant", &tenant, "--limit", "1"]);
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "event": {
            "event_id": "UUID",
            "position": "4",
            "aggregate_type": "Order",
            "aggregate_id": "o-3",
            "tenant": "UUID",
            "version": 1,
            "event_type": "OrderPlaced",
            "schema_version": 1,
            "occurred_at": "TIME",
            "recorded_at": "TIME",
            "correlation_id": "UUID",
            "causation_id": null,
            "actor_id": null,
            "attributes": null,
            "fields": { "cents": 120 },
        },
    });
    assert_json(&shown.masked_json(), &wanted);
    let store = SqliteEventStore::open(app.folder.path().join("bank.db")).await.unwrap();
    let noted = |payload: &str| NewEvent::new(Name::from_static("Noted"), 1, payload);
    let stream = StreamId::parse("Order", "o-4").unwrap();
    let notes = vec![
        NewEvent::from_event(&OrderPlaced { cents: 120 }).unwrap(),
        noted(r#"{"by":"a","cents":1,"at":"x"}"#),
        noted(r#"{"by":"b","cents":1,"to":"\u001b[2J"}"#),
    ];
    store.append(&stream, ExpectedVersion::NoStream, notes).await.unwrap();
    let shown = app.run(&["streams", "show", "Order", "o-4", "--diff"]).masked();
    let changed: Vec<_> = shown.lines().filter_map(|line| line.trim().strip_prefix("changed")).map(str::trim).collect();
    assert_eq!(changed, ["by: a -> b", "to: (none) -> \\u{1b}[2J", "at: x -> (none)"], "{shown}");
    let shown = app.run(&["--json", "streams", "show", "Order", "o-4", "--diff"]);
    let changes: Vec<_> = shown.documents().into_iter().map(|document| document["changes"].clone()).collect();
    let last = json!([
        { "field": "by", "before": "a", "after": "b" },
        { "field": "to", "before": null, "after": "\u{1b}[2J" },
        { "field": "at", "before": "x", "after": null },
    ]);
    assert_eq!(changes, [json!([]), json!([]), last]);
    let none = app.run(&["streams", "show", "Order", "o-9"]);
    assert_eq!((none.code, none.err.as_str()), (1, "stream `Order/o-9` has no event from version 1 on\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_followed_by_type_and_resumed() {
    let app = DeadApp::new().await;
    let follow = |more: &[&str]| {
        let mut all = vec!["--json", "follow", "--until", "head", "--after", "0"];
        all.extend(more);
        let positions = app.run(&all).documents().into_iter();
        positions.map(|line| line["event"]["position"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(follow(&[]), ["1", "2", "3", "4", "5"]);
    assert_eq!(follow(&["--type", "OrderShipped"]), ["2", "5"]);
    assert_eq!(follow(&["--aggregate", "Order", "--type", "OrderPlaced"]), ["1", "3", "4"]);
    assert_eq!(follow(&["--aggregate", "Cart"]), [""; 0]);
    let rest = app.run(&["--json", "follow", "--after", "3", "--until", "4"]).documents();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0]["event"]["position"], "4");
    let text = app.run(&["follow", "--after", "0", "--until", "1"]).masked();
    assert!(text.starts_with("1  Order/o-1  v1  OrderPlaced (schema 1)  TIME\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_app_has_no_owners_and_keeps_its_positions() {
    let app = DeadApp::new().await;
    let table = "
        PROJECTION  POSITION  HEAD  EVENTS  SECONDS  OWNER  SKIPS  SAVED
        totals  5  5  0  0.0  -  0  TIME";
    assert_eq!(app.run(&["projections"]).masked(), head(table));
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "projections": [{
            "name": "totals", "position": "5", "head": "5", "events": 0, "seconds": 0.0, "owner": null,
            "rebuilt_by": null, "updated_at": "TIME", "skipped": [],
        }],
    });
    assert_json(&app.run(&["projections", "--json"]).masked_json(), &wanted);

    let table = "
        HANDLER  GROUP  SHARDS  OWNER  POSITION  HEAD  SECONDS  WAITING  DEAD
        send  mail  1  -  5  5  0.0  0  2";
    assert_eq!(app.run(&["groups"]).masked(), head(table));
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "handlers": [{
            "handler": "send", "group": "mail", "paused": false, "unused": false, "owners": [],
            "shards": [{
                "shard": 0, "owner": null, "epoch": 1, "checkpoint": "5", "waiting": 0, "started": 0, "left": {},
            }],
            "position": "5", "head": "5", "events": 0, "seconds": 0.0, "waiting": 0, "dead_letters": 2,
        }],
        "groups": [],
    });
    assert_json(&app.run(&["groups", "--json"]).masked_json(), &wanted);
    let shown = app.run(&["groups", "show", "send"]).masked();
    let shards = "SHARD  OWNER  EPOCH  CHECKPOINT  WAITING  STARTED  TYPES LEFT\n  0  -  1  5  0  0  -\n";
    assert!(shown.starts_with("HANDLER  GROUP  ") && shown.ends_with(shards), "{shown}");
    let table = "DESTINATION  PUBLISHED  HEAD  EVENTS  SECONDS  LEADER  SKIPS  SAVED\n";
    assert_eq!(app.run(&["relay"]).masked(), table);
    assert_json(&app.run(&["relay", "--json"]).masked_json(), &json!({ "version": 1, "as_of": "TIME", "relays": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_finds_the_readers_that_are_behind() {
    let app = DeadApp::new().await;
    let table = "
        KIND  NAME  POSITION  HEAD  EVENTS  SECONDS  OWNER
        projection  totals  5  5  0  0.0  -
        handler  send  5  5  0  0.0  -";
    assert_eq!(app.run(&["lag"]).masked(), head(table));
    assert_eq!(app.run(&["lag", "--over", "0"]).code, 0);
    let url = app.url();
    let watching = Running::start(&["--store", &url, "--json", "lag", "--watch", "100ms", "--over", "0"]);
    assert!(watching.line().contains(r#""over":[]"#), "no reader is behind yet");
    let store = SqliteEventStore::connect(&app.url()).await.unwrap();
    let placed = vec![NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap()];
    store.append(&StreamId::parse("Order", "o-4").unwrap(), ExpectedVersion::NoStream, placed).await.unwrap();
    assert!((0..600).any(|_| !watching.line().contains(r#""over":[]"#)), "a reader is behind");
    assert_eq!(watching.exit_code(), Some(1), "a watch ends, too, when a reader is behind");
    let late = app.run(&["--json", "lag", "--over", "0"]);
    assert_eq!((late.code, late.err.as_str()), (1, "behind: totals, send\n"));
    let mut document = late.documents().remove(0);
    for reader in document["readers"].as_array_mut().unwrap() {
        assert!(reader["seconds"].as_f64().unwrap() >= 0.0);
        reader["seconds"] = json!("SECONDS");
    }
    document["as_of"] = json!("TIME");
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "readers": [
            { "kind": "projection", "name": "totals", "position": "5", "head": "6", "events": 1, "seconds": "SECONDS", "owner": null },
            { "kind": "handler", "name": "send", "position": "5", "head": "6", "events": 1, "seconds": "SECONDS", "owner": null },
        ],
        "over": ["totals", "send"],
    });
    assert_json(&document, &wanted);
    assert_eq!(app.run(&["lag", "--over", "1"]).code, 0);
    assert_eq!(app.run(&["lag", "--over-time", "1d"]).code, 0);
    // the time is in tenths of a second
    let began = Instant::now();
    while app.run(&["lag", "--over-time", "0s"]).code != 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "the readers are not behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_replayed_and_discarded() {
    let app = DeadApp::new().await;
    let listed = app.run(&["dead-letters", "list"]);
    let lines: Vec<_> = listed.out.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines.len() == 3, "{}", listed.out);
    for (line, order, error) in
        [(lines[1], "o-1", r"no mailbox for p-1\nat all"), (lines[2], "o-3", r"no mailbox for p-3\nat all")]
    {
        assert!(line.contains("mail") && line.contains(order) && line.ends_with(error), "{line}");
    }
    let ids = |arguments: &[&str]| {
        let mut all = vec!["--json", "dead-letters", "list"];
        all.extend(arguments);
        let document = app.run(&all).documents().remove(0);
        let rows = document["dead_letters"].as_array().unwrap().iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ids(&[]);
    assert_eq!(all.len(), 2);
    assert_eq!(ids(&["--error", "P-3"]), all[1..]);
    let first =
        app.run(&["--json", "dead-letters", "list", "--error", "mailbox", "--limit", "1"]).documents().remove(0);
    assert_eq!((&first["dead_letters"][0]["id"], &first["next"]), (&json!(all[0]), &json!(all[0])));
    assert_eq!(
        ids(&["--group", "mail", "--handler", "send", "--type", "OrderShipped", "--aggregate", "o-1"]),
        all[..1]
    );
    for filter in [["--group", "other"], ["--handler", "x"], ["--type", "x"], ["--error", "paper"], ["--older", "1h"]] {
        assert_eq!(ids(&filter), [""; 0], "{filter:?}");
    }
    assert_eq!(ids(&["--older", "0s"]), all);
    assert_eq!(ids(&["--limit", "1", "--after", &all[0]]), all[1..]);

    let mut shown = app.run(&["--json", "dead-letters", "show", &all[0]]).documents().remove(0);
    assert_eq!(shown["dead_letter"]["event"]["fields"], json!({ "parcel": "p-1" }));
    let event_id = shown["dead_letter"]["event_id"].as_str().unwrap().to_owned();
    shown["dead_letter"]["event"] = json!("EVENT");
    for (field, masked) in [("id", "ID"), ("event_id", "UUID"), ("dead_since", "TIME")] {
        assert!(shown["dead_letter"][field].is_string());
        shown["dead_letter"][field] = json!(masked);
    }
    shown["as_of"] = json!("TIME");
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "dead_letter": {
            "id": "ID", "group": "mail", "handler": "send", "event_id": "UUID", "type": "OrderShipped",
            "aggregate_type": "Order", "aggregate_id": "o-1", "tenant": null, "attempts": 1, "dead_since": "TIME", "error": "no mailbox for p-1\nat all",
            "event": "EVENT",
        },
    });
    assert_json(&shown, &wanted);

    let replay_all = ["dead-letters", "replay", "--group", "mail"];
    let refused = app.run(&replay_all);
    assert_eq!((refused.code, refused.out.as_str()), (4, ""));
    assert!(refused.err.starts_with("replay 2 dead letters?\nerror: not confirmed"), "{}", refused.err);
    assert_eq!(app.run(&["dead-letters", "replay", "--yes"]).code, 64, "no filter is no wish for all");
    let dry = app.run(&["dead-letters", "replay", "--group", "mail", "--dry-run"]);
    assert_eq!((dry.code, dry.out), (0, format!("{} unchanged\n{} unchanged\n", all[0], all[1])));
    assert_eq!(ids(&[]), all, "nothing was changed");

    let replayed = app.run(&["--yes", "--json", "dead-letters", "replay", &all[0]]);
    assert_eq!(replayed.code, 0);
    assert_eq!(replayed.documents()[0]["outcome"], "replayed");
    let gone = app.run(&["--yes", "dead-letters", "replay", &all[0]]);
    assert_eq!((gone.code, gone.out), (1, format!("{} gone\n", all[0])));
    for (action, id) in [("replay", &*all[0]), ("discard", &all[0]), ("replay", "no-id"), ("discard", "no-id")] {
        let [dry, made] = ["--dry-run", "--yes"].map(|consent| app.run(&[consent, "dead-letters", action, id]));
        assert_eq!((dry.code, dry.out), (1, made.out), "a dry run finds the dead letter as the command does");
    }
    for filter in [["--handler", "other"], ["--type", "OrderPlaced"], ["--error", "no such text"]] {
        for action in ["replay", "discard"] {
            let none = app.run(&[&["--yes", "--json", "dead-letters", action], &filter[..]].concat());
            assert_json(&none.masked_json(), &json!({ "version": 1, "as_of": "TIME", "found": 0 }));
        }
    }
    for filter in [["--handler", "send"], ["--type", "OrderShipped"], ["--error", "mailbox"]] {
        for action in ["replay", "discard"] {
            let dry = app.run(&[&["--dry-run", "dead-letters", action], &filter[..]].concat());
            assert_eq!((dry.code, dry.out), (0, format!("{} unchanged\n", all[1])), "{action} {filter:?}");
        }
    }
    for consent in ["--dry-run", "--yes"] {
        let none = app.run(&[consent, "--json", "dead-letters", "discard", "--group", "other"]);
        assert_json(&none.masked_json(), &json!({ "version": 1, "as_of": "TIME", "found": 0 }));
    }
    let handler = app.run(&["--json", "groups", "show", "send"]).documents().remove(0);
    assert_eq!((&handler["waiting"], &handler["dead_letters"]), (&json!(1), &json!(1)), "{handler}");
    let causes = app.run(&["--json", "why", &event_id]).documents().remove(0);
    let row = &causes["events"][0];
    assert_eq!((&row["waiting"][0]["group"], &row["waiting"][0]["handler"]), (&json!("mail"), &json!("send")), "{row}");
    assert_eq!((row["waiting"].as_array().unwrap().len(), &row["dead_letters"]), (1, &json!([])), "{row}");
    let causes = app.run(&["why", &event_id]).out;
    assert!(causes.contains("\n  waits in mail/send, failed runs: "), "{causes}");
    let discarded = app.run(&["--yes", "dead-letters", "discard", "--all"]);
    assert_eq!((discarded.code, discarded.out), (0, format!("{} discarded\n", all[1])));
    assert_eq!(ids(&[]), [""; 0]);
    let none = app.run(&["dead-letters", "show", &all[0]]);
    assert_eq!((none.code, none.err), (1, format!("there is no dead letter `{}`\n", all[0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_fits_on_one_screen() {
    let app = DeadApp::new().await;
    let path = app.folder.path().join("bank.db");
    let wanted = format!(
        "store  SqliteEventStore {}
id  UUID
head  5
bus  none, handlers read the store
dead letters  2

PROJECTION  POSITION  HEAD  EVENTS  SECONDS  OWNER  SKIPS  SAVED
totals  5  5  0  0.0  -  0  TIME

HANDLER  GROUP  SHARDS  OWNER  POSITION  HEAD  SECONDS  WAITING  DEAD
send  mail  1  -  5  5  0.0  0  2\n",
        path.display()
    );
    assert_eq!(app.run(&["status"]).masked(), wanted);
    let document = app.run(&["status", "--json"]).masked_json();
    assert_eq!((&document["head"], &document["dead_letters"]), (&json!("5"), &json!(2)));
    assert_eq!(document["bus"], "none, handlers read the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_changes_no_byte_of_the_file() {
    let app = DeadApp::new().await;
    let path = app.folder.path().join("bank.db");
    let before = fs::read(&path).unwrap();
    for arguments in [
        &["status"][..],
        &["streams", "list"],
        &["streams", "show", "Order", "o-1"],
        &["follow", "--after", "0", "--until", "head"],
        &["projections"],
        &["relay"],
        &["groups"],
        &["lag"],
        &["schema"],
        &["dead-letters", "list"],
        &["dead-letters", "discard", "--all", "--dry-run"],
    ] {
        assert_eq!(app.run(arguments).code, 0, "{arguments:?}");
    }
    assert!(fs::read(&path).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_one_aggregate_are_told_from_those_of_others_with_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let tenant = Uuid::from_u128(7);
    for (aggregate_type, tenant) in [("Order", None), ("Order", Some(tenant)), ("Account", None)] {
        let stream = StreamId::parse(aggregate_type, "o-1").unwrap().with_tenant_id(tenant);
        let shipped = NewEvent::from_event(&OrderShipped { parcel: "p".into() }).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![shipped]).await.unwrap();
    }
    let app = App::builder().store(store).handler::<send>().start().await.unwrap();
    assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 3, .. })));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    drop(app);
    let run = |arguments: &[&str]| eventbus(&[&["--store", &url], arguments].concat());
    let listed = |filter: &[&str]| {
        let document = run(&[&["--json", "dead-letters", "list"], filter].concat()).documents().remove(0);
        let rows = document["dead_letters"].as_array().unwrap().clone();
        rows.iter().map(|row| (row["aggregate_type"].clone(), row["tenant"].clone())).collect::<Vec<_>>()
    };
    let (tenant, none) = (tenant.to_string(), Uuid::nil().to_string());
    let [order, of_tenant, account] =
        [(json!("Order"), json!(null)), (json!("Order"), json!(tenant)), (json!("Account"), json!(null))];
    assert_eq!(listed(&["--aggregate", "o-1"]), [order.clone(), of_tenant, account.clone()]);
    assert_eq!(listed(&["--aggregate-type", "Account"]), slice::from_ref(&account));
    assert_eq!(listed(&["--tenant", &none, "--limit", "1"]), slice::from_ref(&order));
    let text = run(&["dead-letters", "list"]).out;
    assert!(text.contains(" Account/o-1 ") && text.contains(&format!(" Order/o-1@{tenant} ")), "{text}");
    let asked = run(&["dead-letters", "discard", "--aggregate", "o-1"]).err;
    assert!(asked.starts_with("discard 3 dead letters of 3 aggregates with this id?"), "{asked}");
    let discarded = run(&["--yes", "dead-letters", "discard", "--aggregate", "o-1", "--tenant", &tenant]);
    assert_eq!((discarded.code, discarded.out.lines().count()), (0, 1), "{discarded:?}");
    assert_eq!(listed(&[]), [order, account]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_or_large_conversation_is_shown_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let (mut context, mut ids) = (EventContext::default(), Vec::new());
    for number in 0..40 {
        // half of the bytes are those of the attributes
        let parcel = if number < 33 { String::new() } else { "x".repeat(2 << 20) };
        let attributes = Attributes::parse(&format!("{{\"note\":\"{parcel}\"}}")).unwrap();
        let context_with_note = context.with_attributes(attributes);
        let event = NewEvent::from_event(&OrderShipped { parcel }).unwrap().with_context(context_with_note);
        let stream = StreamId::parse("Order", &format!("o-{number}")).unwrap();
        let stored = store.append(&stream, ExpectedVersion::NoStream, vec![event]).await.unwrap();
        context = EventContext::caused_by(stored[0].metadata());
        ids.push(stored[0].metadata().event_id().to_string());
    }
    drop(store);
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let shown = eventbus(&["--store", &url, "why", &ids[39]]);
    let line = |id: &str| shown.out.lines().find(|line| line.contains(id)).map(str::to_owned);
    let indent = " ".repeat(60);
    assert!(line(&ids[30]).unwrap().starts_with(&format!("{indent}- OrderShipped")), "{}", shown.out);
    assert!(line(&ids[31]).unwrap().starts_with(&format!("{indent}[31] - OrderShipped")), "{}", shown.out);
    // four events of 4 MiB are as many as are held; the wanted one is shown though it comes later
    let are_shown: Vec<_> = (33..40).map(|number| line(&ids[number]).is_some()).collect();
    assert_eq!(are_shown, [true, true, true, true, false, false, true]);
    assert!(shown.out.ends_with("the conversation has more events\n"), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn causes_and_effects_of_an_event_are_a_tree() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let append = async |id: &str, context: EventContext| {
        let event = NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap().with_context(context);
        let stream = StreamId::parse("Order", id).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![event]).await.unwrap().remove(0)
    };
    let caused_by = |cause: &RecordedEvent| EventContext::caused_by(cause.metadata());
    let root = append("root", EventContext::default()).await;
    let left = append("left", caused_by(&root)).await;
    append("other", EventContext::default()).await;
    let right = append("right", caused_by(&root)).await;
    append("leaf", caused_by(&left)).await;
    drop(store);
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let why = |event: &RecordedEvent, more: &[&str]| {
        let id = event.metadata().event_id().to_string();
        eventbus(&[&["--store", &url, "why", &id], more].concat())
    };
    let wanted = "correlation UUID
- OrderPlaced  Order/root  v1  TIME  UUID  handlers unknown
  * OrderPlaced  Order/left  v1  TIME  UUID  handlers unknown
  - OrderPlaced  Order/leaf  v1  TIME  UUID  handlers unknown
  - OrderPlaced  Order/right  v1  TIME  UUID  handlers unknown\n";
    let shown = why(&left, &[]);
    assert_eq!(shown.masked(), wanted);
    // `mask` shortens runs of spaces: the leaf is one level deeper
    assert!(
        shown.out.contains("\n    - OrderPlaced  Order/leaf") && shown.out.contains("\n  - OrderPlaced  Order/right")
    );
    let document = why(&right, &["--json"]).masked_json();
    let rows = document["events"].as_array().unwrap().iter();
    let rows: Vec<_> = rows
        .map(|row| {
            (row["event"]["aggregate_id"].as_str().unwrap(), row["depth"].as_u64().unwrap(), row["is_wanted"] == true)
        })
        .collect();
    assert_eq!(rows, [("root", 0, false), ("left", 1, false), ("leaf", 2, false), ("right", 1, true)]);
    assert_eq!(why(&right, &["--since", "1h"]).code, 0);
    let too_old = why(&right, &["--since", "0s"]);
    assert_eq!((too_old.code, too_old.err.contains("after position 5")), (1, true), "{too_old:?}");
    assert_eq!(why(&root, &["--after", "1"]).code, 1);
    assert_eq!(eventbus(&["--store", &url, "why", "no-id"]).code, 64);

    let app = DeadApp::new().await;
    let dead = app.run(&["--json", "dead-letters", "list"]).documents().remove(0);
    let event = dead["dead_letters"][0]["event_id"].as_str().unwrap().to_owned();
    let document = app.run(&["--json", "why", &event]).documents().remove(0);
    let found = &document["events"][0]["dead_letters"][0];
    assert_eq!((&found["group"], &found["handler"]), (&json!("mail"), &json!("send")));
    assert_eq!(found["id"], dead["dead_letters"][0]["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_output_that_goes_away_ends_no_change() {
    let app = DeadApp::new().await;
    let replayed = eventbus_unread(&["--store", &app.url(), "--yes", "dead-letters", "replay", "--all"]);
    assert_eq!(replayed, Some(0));
    let left = app.run(&["--json", "dead-letters", "list"]).documents().remove(0);
    assert_eq!(left["dead_letters"], json!([]));
    let missing = format!("sqlite:{}", app.folder.path().join("none.db").display());
    let status = eventbus(&["--store", &missing, "doctor"]).code;
    assert_eq!((eventbus_unread(&["--store", &missing, "doctor"]), status > 0), (Some(status), true));
}

/// Returns `true` if there is the program of util-linux that makes terminals. Without it the test does not run, and says
/// so; on a Linux whose tests install what they need it fails, as each has the package.
fn has_terminals() -> bool {
    let version = std::process::Command::new("script").arg("--version").output();
    if version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("util-linux")) {
        return true;
    }
    let missing = "`script` of util-linux is not installed (Debian: apt-get install bsdutils)";
    let may_install = std::env::var("TEST_SERVERS_INSTALL").is_ok_and(|value| !value.is_empty() && value != "0");
    let is_due = may_install && cfg!(target_os = "linux");
    assert!(!is_due, "{missing}");
    // past the captured output of the test
    let _ = writeln!(std::io::stderr(), "skipped, not run: commands at a terminal, because {missing}");
    false
}

/// Runs the command on a terminal at which a person types, and returns what the terminal shows.
fn on_terminal(arguments: &[&str], typed: &str) -> String {
    let line = [&[env!("CARGO_BIN_EXE_eventbus")], arguments].concat().join(" ");
    let mut script = std::process::Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = script.spawn().unwrap();
    running.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let ended = running.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{line}: {shown}");
    shown
}

/// Makes a store of so many events that a search of the feed reports progress; returns its URL and its last event.
async fn long_store(folder: &Path) -> (String, EventId) {
    let (path, stream) = (folder.join("long.db"), StreamId::parse("Order", "o-1").unwrap());
    let store = SqliteEventStore::open(&path).await.unwrap();
    let events = (0..3_000).map(|cents| NewEvent::from_event(&OrderPlaced { cents }).unwrap());
    let appended = store.append(&stream, ExpectedVersion::NoStream, events.collect()).await.unwrap();
    (format!("sqlite:{}", path.display()), appended.last().unwrap().metadata().event_id())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_progress_is_shown_and_a_change_is_asked_for() {
    if !has_terminals() {
        return;
    }
    let app = DeadApp::new().await;
    let (url, file) = (app.url(), app.folder.path().join("all.jsonl").display().to_string());
    let shown = on_terminal(&["--store", &url, "export", &file], "");
    assert!(shown.contains("exporting ") && shown.contains(" positions "), "{shown:?}");
    let dead = || app.run(&["--json", "dead-letters", "list"]).documents().remove(0)["dead_letters"].clone();
    assert_eq!(dead().as_array().unwrap().len(), 2);
    let shown = on_terminal(&["--store", &url, "dead-letters", "show", dead()[0]["id"].as_str().unwrap()], "");
    assert!(shown.contains("reading "), "{shown:?}");
    let unchanged = on_terminal(&["--store", &url, "--dry-run", "dead-letters", "discard", "--all"], "");
    assert!(unchanged.contains("unchanged") && !unchanged.contains("discarding"), "{unchanged:?}");
    let asked = on_terminal(&["--store", &url, "dead-letters", "discard", "--all"], "y\n");
    assert!(asked.contains("? [y/N]") && asked.contains("finding dead letters 2 "), "{asked:?}");
    assert!(asked.contains("discarding   0 %  0/2 dead letters"), "{asked:?}");
    assert!(asked.contains("discarding 100 %  2/2 dead letters") && !asked.contains("100 %  0/"), "{asked:?}");
    assert_eq!(dead(), json!([]));
    let [imported, copied] = ["imported.db", "copied.db"].map(|name| app.folder.path().join(name));
    let [imported, copied] = [imported, copied].map(|path| format!("sqlite:{}", path.display()));
    let (long, event) = long_store(app.folder.path()).await;
    let former = Name::from_static("relay:redis:former:stream");
    SqliteEventStore::connect(&url).await.unwrap().save_checkpoint(&former, Position::new(2)).await.unwrap();
    for (store, command, work) in [
        (&url, "dead-letters list", "reading "),
        (&url, "streams list", "reading "),
        (&url, "streams show Order o-1 --diff --from 2", "reading "),
        (&url, "status", "connecting "),
        (&url, "status", "reading "),
        (&url, "projections", "reading "),
        (&url, "relay", "reading "),
        (&url, "groups", "reading "),
        (&url, "groups show send", "reading "),
        (&url, "lag", "reading "),
        (&url, "schema", "reading "),
        (&url, "follow --after 0 --type OrderShipped --until head", "following "),
        (&long, &format!("why {event}"), "searching "),
        (&url, &format!("export {file} --resume"), "reading the file "),
        (&imported, "migrate --yes", "migrating "),
        (&imported, &format!("import {file} --yes"), "importing "),
        (&imported, &format!("import {file} --yes"), "verifying the store "),
        (&copied, "migrate --yes", "migrating "),
        (&url, &format!("copy --to {copied} --yes"), "copying "),
        (&url, &format!("copy --to {copied} --yes"), "verifying "),
        (&url, "doctor --deep --skip sqlite-disk", "checking sqlite-"),
        (&url, "projections retire totals --yes", "retiring "),
        (&url, "relay retire redis:former:stream --yes", "retiring "),
        (&url, "groups retire send --yes", "retiring "),
    ] {
        let arguments: Vec<_> = ["--store", store].into_iter().chain(command.split(' ')).collect();
        let shown = on_terminal(&arguments, "");
        assert!(shown.contains(work), "{command}: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_dead_letters_are_more_than_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let shipped = |number: u32| NewEvent::from_event(&OrderShipped { parcel: number.to_string() }).unwrap();
    for number in 0..120 {
        let stream = StreamId::parse("Order", &number.to_string()).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![shipped(number)]).await.unwrap();
    }
    let app = App::builder().store(store.clone()).handler::<send>().start().await.unwrap();
    assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 120, .. })));
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    // the bus that an application was given, and that has not started
    let store: Arc<dyn EventStore> = Arc::new(store);
    let given: Arc<dyn EventBus> = Arc::new(InMemoryEventBus::new());
    let attached = OpenBus::attach(&given, Some(&store)).await.unwrap();
    let all = DeadLetterQuery::default();
    let (found, _) = find_dead_letters(attached.dead_letters().unwrap(), &all, None, 1_000).await.unwrap();
    assert_eq!(found.len(), 120);
    drop((attached, store));

    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let discarded = eventbus(&["--store", &url, "--yes", "dead-letters", "discard", "--all"]);
    assert_eq!((discarded.code, discarded.out.lines().count()), (0, 120), "{discarded:?}");
    let none = eventbus(&["--store", &url, "--json", "dead-letters", "list"]);
    assert_eq!(none.documents()[0]["dead_letters"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_large_dead_letters_few_are_held_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let large = format!(r#"{{"parcel":"p","note":"{}"}}"#, "x".repeat(1 << 20));
    for number in 0..12 {
        let stream = StreamId::parse("Order", &number.to_string()).unwrap();
        let shipped = NewEvent::new(Name::from_static("OrderShipped"), 1, large.clone());
        store.append(&stream, ExpectedVersion::NoStream, vec![shipped]).await.unwrap();
    }
    let app = App::builder().store(store.clone()).handler::<send>().start().await.unwrap();
    assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 12, .. })));
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    let store: Arc<dyn EventStore> = Arc::new(store);
    let given: Arc<dyn EventBus> = Arc::new(InMemoryEventBus::new());
    let attached = OpenBus::attach(&given, Some(&store)).await.unwrap();
    let (dead_letters, all) = (attached.dead_letters().unwrap(), DeadLetterQuery::default());
    let (mut numbers, mut after) = (Vec::new(), None);
    loop {
        let (found, next) = find_dead_letters(dead_letters, &all, after, 100).await.unwrap();
        numbers.push(found.len());
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(numbers, [4, 4, 4]);
    let (found, next) = search_dead_letters(dead_letters, &all, None, (50, 200)).await.unwrap();
    assert_eq!((found.len(), next.is_some()), (4, true), "a page of the dashboard");
    drop((attached, store));

    // the commands take all the same
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let listed = eventbus(&["--store", &url, "--json", "dead-letters", "list"]).documents().remove(0);
    assert_eq!((listed["dead_letters"].as_array().unwrap().len(), &listed["next"]), (12, &json!(null)));
    let unchanged = eventbus(&["--store", &url, "--dry-run", "dead-letters", "discard", "--all"]);
    assert_eq!((unchanged.code, unchanged.out.lines().count()), (0, 12), "{unchanged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_no_release_has_any_more_are_retired() {
    let app = DeadApp::new().await;
    let store = SqliteEventStore::connect(&app.url()).await.unwrap();
    let (totals, former) = (Name::from_static("projection:totals"), Name::from_static("redis:former:stream"));
    // the relay to a bus of a former release
    let of_former = ReaderKind::Relay.name_of(&former);
    let vm = Name::from_static("vm:1");
    store.acquire_lease(&of_former, &vm, Duration::ZERO).await.unwrap();
    store.save_checkpoint(&of_former, Position::new(2)).await.unwrap();
    store.save_checkpoint(&ReaderKind::HaltedRelay.name_of(&former), Position::new(3)).await.unwrap();
    // one event waits for a retry, and the other one stays a dead letter
    let replayed = app.run(&["--yes", "dead-letters", "replay", "--aggregate", "o-1"]);
    assert_eq!(replayed.code, 0, "{replayed:?}");
    assert_eq!(app.run(&["projections", "skip", "totals", "9", "--reason", "lost", "--yes"]).code, 64);
    assert_eq!(app.run(&["projections", "skip", "totals", "5", "--reason", "lost", "--yes"]).code, 0);

    for (retire, question) in [
        (
            ["projections", "retire", "totals"],
            "retire projection `totals`, which is at position 5; its tables stay, and a projection of that name begins anew",
        ),
        (
            ["relay", "retire", "redis:former:stream"],
            "retire the relay to redis:former:stream, which is at position 2; a later relay to this bus goes on behind the record of the bus",
        ),
        (["groups", "retire", "send"], "retire handler `send` at position 5, with 1 waiting events and 1 dead letters"),
    ] {
        let refused = app.run(&retire);
        assert_eq!((refused.code, refused.out.as_str()), (4, ""), "{refused:?}");
        assert!(refused.err.starts_with(&format!("{question}?\n")), "{refused:?}");
    }

    let no_such = |kind: &str| app.run(&[kind, "retire", "other", "--yes"]);
    for (kind, says) in [
        ("projections", "there is no projection `other` in this store\n"),
        ("relay", "this store has no relay to `other`\n"),
        ("groups", "there is no handler or group `other`\n"),
    ] {
        let none = no_such(kind);
        assert_eq!((none.code, none.err.as_str()), (1, says));
    }

    // a process has the role
    let minute = Duration::from_secs(60);
    for (role, retire) in [
        ("projection:totals", ["projections", "retire", "totals"]),
        ("relay:redis:former:stream", ["relay", "retire", "redis:former:stream"]),
    ] {
        let lease = store.acquire_lease(&Name::from_static(role), &vm, minute).await.unwrap().unwrap();
        let in_use = app.run(&[&retire[..], &["--yes"]].concat());
        let text = format!("error: `vm:1` has the role `{role}`: stop it first\n");
        assert_eq!((in_use.code, in_use.err), (2, text));
        store.release_lease(&lease).await.unwrap();
    }
    let rebuild = store.acquire_lease(&Name::from_static("rebuild:totals"), &vm, minute).await.unwrap().unwrap();
    let rebuilt = app.run(&["--yes", "projections", "retire", "totals"]);
    assert_eq!(
        (rebuilt.code, rebuilt.err.as_str()),
        (2, "error: `vm:1` rebuilds projection `totals`: stop it first\n")
    );
    store.release_lease(&rebuild).await.unwrap();

    let epoch = store.acquire_lease(&totals, &vm, Duration::ZERO).await.unwrap().unwrap().epoch;
    let retired = app.run(&["--json", "--yes", "projections", "retire", "totals"]).masked_json();
    let wanted =
        json!({ "version": 1, "as_of": "TIME", "reader": "projection:totals", "retired": true, "position": "5" });
    assert_json(&retired, &wanted);
    let projections = app.run(&["--json", "projections"]).masked_json();
    assert_json(&projections, &json!({ "version": 1, "as_of": "TIME", "projections": [] }));
    assert_eq!(store.load_checkpoint(&totals).await.unwrap(), None);
    assert_eq!(store.notes().unwrap().load_note(&totals).await.unwrap(), None, "the event types that it handled");
    let lease = store.acquire_lease(&totals, &vm, Duration::ZERO).await.unwrap().unwrap();
    assert!(lease.epoch > epoch, "a process of before may still write");

    let retired = app.run(&["--yes", "relay", "retire", "redis:former:stream"]);
    assert_eq!(retired.masked(), "retired the relay to redis:former:stream, which was at position 2\n");
    let relays = app.run(&["--json", "relay"]).masked_json()["relays"].clone();
    assert!(relays.as_array().unwrap().iter().all(|relay| relay["destination"] != "redis:former:stream"), "{relays}");
    assert_eq!(store.load_checkpoint(&ReaderKind::HaltedRelay.name_of(&former)).await.unwrap(), None);

    let retired = app.run(&["--yes", "groups", "retire", "send"]);
    assert_eq!(retired.masked(), "retired handler `send`: 1 waiting events and 1 dead letters\n");
    assert_json(&app.run(&["--json", "groups"]).masked_json()["handlers"], &json!([]));
    assert_eq!(store.count_dead_rows(9).await.unwrap(), 0);
    assert_json(&app.run(&["--json", "relay"]).masked_json()["relays"], &json!([]));
    let again = app.run(&["--yes", "groups", "retire", "send"]);
    assert_eq!((again.code, again.err.as_str()), (1, "there is no handler or group `send`\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_created_where_a_former_one_stands() {
    let app = DeadApp::new().await;
    let create = |more: &[&str]| app.run(&[&["--yes", "groups", "create", "deliver"], more].concat());
    let beyond = create(&["--after", "6"]);
    assert_eq!((beyond.code, beyond.err.as_str()), (64, "error: the store ends at position 5\n"));
    let created = create(&["--after", "3"]).masked();
    assert_eq!(created, "created handler `deliver`, which begins with the first event after position 3\n");
    let again = create(&["--now"]);
    assert!(again.code == 1 && again.err.starts_with("handler `deliver` exists already"), "{again:?}");
    let row = app.run(&["--json", "groups", "show", "deliver"]).documents().remove(0);
    assert_eq!((&row["position"], &row["events"], &row["unused"]), (&json!("3"), &json!(2), &json!(false)), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_paused_and_resumed_while_its_application_runs() {
    let app = DeadApp::new().await;
    let store = SqliteEventStore::connect(&app.url()).await.unwrap();
    let running = App::builder().store(store.clone()).handler::<send>().start().await.unwrap();
    let began = Instant::now();
    // all is handled already, so that `settled` waits for no owner
    let owner = loop {
        let of_owner = app.run(&["--json", "groups", "show", "send"]).documents().remove(0);
        if let Some(owner) = of_owner["owners"][0].as_str() {
            break owner.to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the application does not own its handler");
    };
    let in_use = app.run(&["--yes", "groups", "retire", "send"]);
    assert_eq!((in_use.code, in_use.err), (2, format!("error: `{owner}` runs handler `send`: stop it first\n")));
    // a handler that no release has
    assert_eq!(app.run(&["--yes", "groups", "create", "former", "--after", "1"]).code, 0);
    let lag = |handler: &str| {
        let document = app.run(&["--json", "lag", "--over", "0"]).documents().remove(0);
        let rows = document["readers"].as_array().unwrap().clone();
        (rows.into_iter().find(|row| row["name"] == handler).unwrap(), document["over"].clone())
    };
    let (former, over) = lag("former");
    assert_eq!((&former["remark"], &former["events"], over), (&json!("unused"), &json!(4), json!([])));

    let paused = app.run(&["--yes", "groups", "pause", "mail"]);
    assert_eq!(paused.masked(), "paused group `mail`\n");
    let shipped = NewEvent::from_event(&OrderShipped { parcel: "p-4".into() }).unwrap();
    store.append(&StreamId::parse("Order", "o-4").unwrap(), ExpectedVersion::NoStream, vec![shipped]).await.unwrap();
    assert_eq!(lag("send").0["remark"], "paused");
    assert!(app.run(&["groups"]).masked().contains("\nsend  mail  1  paused  "));
    assert_eq!(app.run(&["--yes", "groups", "resume", "mail"]).masked(), "resumed group `mail`\n");
    let began = Instant::now();
    while store.count_dead_rows(9).await.unwrap() < 3 {
        assert!(began.elapsed() < Duration::from_secs(60), "the handler does not go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let none = app.run(&["--yes", "groups", "pause", "post"]);
    assert_eq!((none.code, none.err.as_str()), (1, "no handler of the store has the group `post`\n"));
    running.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_that_fails_reports_its_own_error_and_not_that_of_its_lease() {
    let app = DeadApp::new().await;
    let file = rusqlite::Connection::open(app.folder.path().join("bank.db")).unwrap();
    let refuse = "
        CREATE TRIGGER refused_deletion BEFORE DELETE ON eventbus_checkpoints
        BEGIN SELECT RAISE(ABORT, 'no deletion'); END;
        CREATE TRIGGER refused_release BEFORE UPDATE ON eventbus_leases WHEN new.expires_at = 0
        BEGIN SELECT RAISE(ABORT, 'no release'); END";
    file.execute_batch(refuse).unwrap();
    let retire = || app.run(&["projections", "retire", "totals", "--yes"]);
    let failed = retire();
    assert!(failed.code > 1 && failed.err.contains("no deletion"), "{failed:?}");
    assert!(!failed.err.contains("no release"), "{failed:?}");
    file.execute_batch("DROP TRIGGER refused_deletion").unwrap();
    // the lease is still that of the command, and ends by itself
    let retired = retire();
    assert!(retired.code == 0 && retired.out.starts_with("retired "), "{retired:?}");
}

/// The names of the files below a folder with their bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_has_json_and_a_dry_run_changes_nothing() {
    let app = DeadApp::new().await;
    let store = SqliteEventStore::connect(&app.url()).await.unwrap();
    store.save_checkpoint(&Name::from_static("relay:memory"), Position::new(2)).await.unwrap();
    drop(store);
    without_log(&app.folder.path().join("bank.db")).await;
    let dead = app.run(&["--json", "dead-letters", "list"]).documents().remove(0)["dead_letters"][0].clone();
    let (dead, event) = (dead["id"].as_str().unwrap(), dead["event_id"].as_str().unwrap());
    let path_of = |name: &str| app.folder.path().join(name).display().to_string();
    let (url, file, empty) = (app.url(), path_of("all.jsonl"), format!("sqlite:{}", path_of("empty.db")));
    assert_eq!(app.run(&["export", &file]).code, 0);
    assert_eq!(eventbus(&["--store", &empty, "--yes", "migrate"]).code, 0);
    without_log(Path::new(&path_of("empty.db"))).await;
    let new = format!("sqlite:{}", path_of("new.db"));
    let make = format!("new {} --path {}/..", path_of("my-app"), env!("CARGO_MANIFEST_DIR"));
    let reading = [
        "doctor --skip sqlite-disk",
        "status",
        "streams list",
        "streams show Order o-1 --diff",
        "follow --after 0 --until head",
        "projections",
        "relay",
        "groups",
        "groups show send",
        "lag",
        "schema",
        "dead-letters list",
        &format!("dead-letters show {dead}"),
        &format!("why {event}"),
    ];
    let changing = [
        (&url, "projections skip totals 2 --reason lost"),
        (&url, "projections unskip totals 2"),
        (&url, "projections retire totals"),
        (&url, "relay retire memory"),
        (&url, "groups create deliver --after 2"),
        (&url, "groups pause mail"),
        (&url, "groups resume mail"),
        (&url, "groups retire send"),
        (&url, "dead-letters replay --all"),
        (&url, "dead-letters discard --all"),
        (&url, &make),
        (&url, &format!("export {file}.zst")),
        (&url, &format!("copy --to {empty}")),
        (&empty, &format!("import {file}")),
        (&new, "migrate"),
    ];
    let before = contents(app.folder.path());
    let mut named = BTreeSet::new();
    let reading = reading.map(|command| (&url, command, "--json"));
    for (store, command, options) in
        reading.into_iter().chain(changing.map(|(store, command)| (store, command, "--json --dry-run")))
    {
        let arguments = ["--store", store].into_iter().chain(options.split(' ')).chain(command.split(' '));
        let ran = eventbus(&arguments.collect::<Vec<_>>());
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        let documents = ran.documents();
        let are_ours = documents.iter().all(|document| document["version"] == 1);
        assert!(!documents.is_empty() && are_ours, "{command}: {ran:?}");
        named.extend(command.split(' ').next().map(str::to_owned));
        // those with a second name
        named.insert(command.split(' ').take(2).collect::<Vec<_>>().join(" "));
    }
    let after = contents(app.folder.path());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(after == before, "a dry run or a command that reads changed a file");

    for (store, command) in [
        (&url, make),
        (&url, format!("export {file}.zst")),
        (&url, format!("copy --to {empty}")),
        (&new, "migrate".to_owned()),
        (&new, format!("import {file}")),
    ] {
        let ran =
            eventbus(&["--store", store, "--json", "--yes"].into_iter().chain(command.split(' ')).collect::<Vec<_>>());
        let documents = ran.documents();
        let is_dry = documents.iter().any(|document| document.get("dry_run").is_some());
        assert!(ran.code == 0 && documents.iter().all(|document| document["version"] == 1), "{command}: {ran:?}");
        assert!(!documents.is_empty() && !is_dry, "{command}: {ran:?}");
    }

    // a server, a script, and what needs Redis
    let others = ["dashboard", "completions", "help", "relay begin", "relay skip", "relay unskip", "relay republish"];
    named.extend(others.map(str::to_owned));
    let listed = names_in_help(&[]);
    let mut all = listed.clone();
    for first in &listed {
        all.extend(names_in_help(&[first]).iter().map(|second| format!("{first} {second}")));
    }
    assert!(all.contains(&"groups show".to_owned()), "{all:?}");
    for command in all.iter().filter(|command| !command.ends_with(" help")) {
        assert!(named.contains(command), "{command}");
    }
    named.retain(|name| !name.contains(' '));
    assert_eq!(named, BTreeSet::from_iter(listed));
}

/// Returns the names of the commands that the help of a command lists.
fn names_in_help(command: &[&str]) -> Vec<String> {
    let help = eventbus(&[command, &["--help"]].concat()).out;
    let listed = help.split("Commands:\n").nth(1).and_then(|listed| listed.split("\n\n").next()).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
