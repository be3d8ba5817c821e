//! The command on PostgreSQL and Redis, beside an application that runs and after it has ended.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
#[path = "../../eventbus-redis/tests/common/tls_server.rs"]
mod tls_server;

use std::time::Duration;

use common::{OrderPlaced, OrderShipped, Ran, Running, assert_json, eventbus, projections::PgTotals, send_of_stream};
use eventbus::{
    EventId, ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, StreamId,
    app::SettleError,
    port::{AppendEvents as _, Checkpoints as _, MultiStreamAppends as _, ReadFeed as _},
    prelude::*,
    store::{Handled, HandledDelivery, MultiStreamAppend},
    support::ReaderKind,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, keys};
use eventbus_test::{Postgres, Redis, internal::closed_port};
use eventstore_postgres::{
    PgConnection, PgEventStore,
    sqlx::{self, Connection as _},
};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use serde_json::{Value, json};
use tls_server::TlsServer;

/// An application on PostgreSQL and Redis.
struct LiveApp {
    database: Postgres,
    redis: Redis,
    store: PgEventStore,
    /// The ids of the four events.
    ids: Vec<EventId>,
    app: App,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderReturned {}

#[handler(group = "mail", stream = "orders", manual)]
async fn take_back(_event: &OrderReturned) -> Result<(), HandlerError> {
    Err("the shelf is full".into())
}

async fn connect_bus(url: &str, prefix: &str) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: url.into(),
        stream_prefix: prefix.into(),
        consumer_group: "mail".into(),
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

async fn start_app(store: &PgEventStore, redis: &Redis) -> App {
    let bus = connect_bus(redis.url(), redis.prefix()).await;
    let app = App::builder().store(store.clone()).bus(bus.clone()).consume("orders", bus);
    app.handler::<send_of_stream>().handler::<take_back>().projection(PgTotals).start().await.unwrap()
}

impl LiveApp {
    /// Two orders, which are shipped, and of which mails cannot be sent.
    async fn start() -> Self {
        let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
        let store = PgEventStore::connect(database.url()).await.unwrap();
        let mut ids = Vec::new();
        for id in ["o-1", "o-2"] {
            let placed = NewEvent::from_event(&OrderPlaced { cents: 120 }).unwrap();
            let shipped = NewEvent::from_event(&OrderShipped { parcel: format!("of {id}") }).unwrap();
            let stream = StreamId::parse("Order", id).unwrap();
            let stored = store.append(&stream, ExpectedVersion::NoStream, vec![placed, shipped]).await.unwrap();
            ids.extend(stored.iter().map(|event| event.metadata().event_id()));
        }
        let app = start_app(&store, &redis).await;
        assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 2, .. })));
        Self { database, redis, store, ids, app }
    }

    /// Starts the application once more.
    async fn start_app(&self) -> App {
        start_app(&self.store, &self.redis).await
    }

    async fn stop(&self) {
        self.app.shutdown(Duration::from_secs(60)).await.unwrap();
    }

    fn all_arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let connections = ["--store", self.database.url(), "--bus", self.redis.url(), "--prefix", self.redis.prefix()];
        connections.into_iter().chain(arguments.iter().copied()).collect()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        eventbus(&self.all_arguments(arguments))
    }

    fn document(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        self.run(&all).masked_json()
    }

    /// Waits until a document has what `holds` looks for.
    async fn wait_for(&self, arguments: &[&str], holds: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let document = self.document(arguments);
                if holds(&document) {
                    return document;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the document shows it")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_app_owns_its_roles() {
    let live = LiveApp::start().await;
    let destination = format!("redis:{}:stream", live.redis.prefix());
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "projections": [{
            "name": "totals", "position": "4", "head": "4", "events": 0, "seconds": 0.0, "owner": "OWNER",
            "rebuilt_by": null, "updated_at": "TIME", "skipped": [],
        }],
    });
    // a projection and the leader save what they have passed about once a second
    let projections = live.wait_for(&["projections"], |document| document["projections"][0]["position"] == "4").await;
    assert_json(&projections, &wanted);
    let relays = live.wait_for(&["relay"], |document| document["relays"][0]["updated_at"] == "TIME").await;
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "relays": [{
            "destination": destination, "leader": "OWNER", "position": "4", "head": "4", "events": 0, "seconds": 0.0,
            "halted_at": null, "updated_at": "TIME", "skipped": [],
        }],
    });
    assert_json(&relays, &wanted);
    let groups = live.wait_for(&["groups"], |document| document["groups"][0]["pending"] == 0).await;
    let wanted = json!({
        "version": 1,
        "as_of": "TIME",
        "handlers": [],
        "groups": [{
            "group": "mail", "consumers": 1, "pending": 0, "oldest_ms": null, "unread": 0,
            "oldest_unread_ms": null, "holds_trim": false, "seconds": 0.0,
        }],
    });
    assert_json(&groups, &wanted);
    assert_eq!(live.run(&["lag", "--over", "0"]).code, 0);

    let status = live.run(&["status"]).masked();
    for part in [
        "head  4\n",
        "dead letters  2\n",
        "totals  4  4  0  0.0  OWNER  0  TIME\n",
        "4  4  0  0.0  OWNER  0  TIME\n",
        "mail  1  0  -  0  no\n",
    ] {
        assert!(status.contains(part), "{part} in\n{status}");
    }
    let in_use = live.run(&["--yes", "groups", "retire", "mail"]);
    assert_eq!(in_use.code, 2, "{in_use:?}");
    assert!(in_use.err.contains("is in use, live consumers: 1"), "{}", in_use.err);
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_app_is_operated_on_its_servers() {
    let live = LiveApp::start().await;
    live.stop().await;
    assert_eq!(live.document(&["projections"])["projections"][0]["owner"], Value::Null);
    assert_eq!(live.document(&["relay"])["relays"][0]["leader"], Value::Null);
    let group = || live.document(&["groups"])["groups"][0].clone();
    assert_eq!((&group()["consumers"], &group()["holds_trim"]), (&json!(0), &json!(false)));
    let placed = vec![NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap()];
    let stream = StreamId::parse("Order", "o-3").unwrap();
    live.store.append(&stream, ExpectedVersion::NoStream, placed).await.unwrap();
    let late = live.run(&["--json", "lag", "--over", "0"]);
    assert_eq!(late.code, 1);
    let readers = late.documents()[0]["readers"].as_array().unwrap().clone();
    let found: Vec<_> = readers.iter().map(|reader| (&reader["kind"], &reader["events"])).collect();
    let (projection, relay, of_group) = (json!("projection"), json!("relay"), json!("group"));
    assert_eq!(found, [(&projection, &json!(1)), (&relay, &json!(1)), (&of_group, &json!(0))]);

    let ids = || {
        let document = live.run(&["--json", "dead-letters", "list"]).documents().remove(0);
        let rows = document["dead_letters"].as_array().unwrap().iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let dead = ids();
    assert_eq!(dead.len(), 2);
    let shown = live.document(&["dead-letters", "show", &dead[0]]);
    assert_eq!(shown["dead_letter"]["event"]["fields"], json!({ "parcel": "of o-1" }));
    assert_eq!(shown["dead_letter"]["event"]["event_type"], "OrderShipped");
    assert_eq!(live.run(&["dead-letters", "replay", "--all"]).code, 4);
    let replayed = live.run(&["--yes", "dead-letters", "replay", "--aggregate", "o-1"]);
    assert_eq!((replayed.code, replayed.out), (0, format!("{} replayed\n", dead[0])));
    assert_eq!(ids(), dead[1..]);
    assert_eq!(live.run(&["dead-letters", "show", "no-id"]).code, 64);
    let waiting = group();
    assert_eq!((&waiting["unread"], &waiting["holds_trim"]), (&json!(1), &json!(true)), "{waiting}");

    // without the store, too, a group is late by the entries that no consumer has read
    let of_bus = ["--bus", live.redis.url(), "--prefix", live.redis.prefix(), "lag", "--over-time"];
    assert_eq!(eventbus(&[&of_bus[..], &["1h"]].concat()).code, 0);
    assert_eq!(eventbus(&[&of_bus[..], &["0s"]].concat()).code, 1);

    let dry = live.run(&["--dry-run", "groups", "retire", "mail"]);
    assert_eq!((dry.code, dry.out.as_str()), (0, ""));
    assert_eq!(dry.err, "dry run: retire group `mail`, with 0 pending and 1 unread entries; nothing is changed\n");
    assert_eq!(live.run(&["groups", "retire", "mail"]).code, 4);
    let retired = live.document(&["--yes", "groups", "retire", "mail"]);
    let wanted = json!({ "version": 1, "as_of": "TIME", "group": "mail", "retired": true, "pending": 0, "unread": 1 });
    assert_json(&retired, &wanted);
    assert_eq!(live.document(&["groups"])["groups"], json!([]));
    assert_eq!(live.run(&["--yes", "groups", "retire", "mail"]).code, 1);
}

/// The orders that the handler of a new group got.
#[track_caller]
fn assert_dry_run(ran: &Ran, would: &str) {
    let wanted = json!({ "version": 1, "dry_run": true, "would": would });
    let mut document = ran.documents().remove(0);
    document.as_object_mut().unwrap().remove("as_of");
    assert_json(&document, &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_makes_a_handler_of_a_store_and_a_group_on_redis_of_a_bus_alone() {
    let live = LiveApp::start().await;
    live.stop().await;
    let created = live.document(&["--yes", "groups", "create", "reports", "--after", "2"]);
    assert_json(
        &created,
        &json!({ "version": 1, "as_of": "TIME", "handler": "reports", "created": true, "after": "2" }),
    );
    let groups = || live.document(&["groups"])["groups"].as_array().unwrap().len();
    assert_eq!(groups(), 1, "there is no group on Redis");

    let bus = ["--bus", live.redis.url(), "--prefix", live.redis.prefix()];
    let create = |arguments: &[&str]| eventbus(&[&bus[..], &["groups", "create"], arguments].concat());
    let question = format!(
        "create group `reports` of redis:{}:stream, which begins with the next event, and from now on holds trimming until \
         its consumers have handled its events",
        live.redis.prefix()
    );
    let dry = create(&["reports", "--now", "--dry-run"]);
    assert_eq!((dry.code, dry.err), (0, format!("dry run: {question}; nothing is changed\n")));
    assert_dry_run(&create(&["reports", "--now", "--dry-run", "--json"]), &question);
    let refused = create(&["reports", "--now"]);
    assert!(refused.code == 4 && refused.err.starts_with(&format!("{question}?\n")), "{refused:?}");
    for (arguments, code, says) in [
        (&["", "--now"][..], 64, "group"),
        (&["reports"], 64, "--after <POSITION>"),
        (&["reports", "--after", "2", "--now"], 64, "cannot be used with"),
        (&["reports", "--after", "2"], 64, "pass `--store URL`"),
        (&["mail", "--now"], 1, "group `mail` exists already"),
    ] {
        let refused = create(&[arguments, &["--yes"]].concat());
        assert!(
            refused.code == code && refused.out.is_empty() && refused.err.contains(says),
            "{arguments:?}: {refused:?}"
        );
    }
    assert_eq!(groups(), 1, "none of these created a group");
    let now = create(&["--yes", "reports", "--now"]);
    assert_eq!((now.code, now.out.as_str()), (0, "created group `reports`, which begins with the next event\n"));
    let row = live.document(&["groups"])["groups"][1].clone();
    assert_eq!((&row["group"], &row["unread"]), (&json!("reports"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_after_an_outage() {
    let mut server = eventbus_test::private_postgres();
    let arguments = ["--store", server.url(), "--timeout", "2", "--json", "lag", "--watch", "100ms"].map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let rows = Name::from_static("projection:rows");
    PgEventStore::connect(server.url()).await.unwrap().save_checkpoint(&rows, Position::START).await.unwrap();
    let watching = Running::start(&arguments);
    watching.line();
    server.stop();
    let note = watching.note();
    assert!(note.starts_with("error: ") && note.contains("cannot be reached"), "{note}");
    server.start();
    PgEventStore::connect(server.url()).await.unwrap().delete_checkpoint(&rows).await.unwrap();
    let goes_on = (0..600).any(|_| {
        let document: Value = serde_json::from_str(&watching.line()).unwrap();
        document["readers"] == json!([])
    });
    assert!(goes_on, "it shows what was before the outage");
    // at first it must be reachable
    server.stop();
    assert_eq!(eventbus(&arguments).code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stopped_at_a_restored_store_publishes_again() {
    let live = LiveApp::start().await;
    live.stop().await;
    let relay = || live.document(&["relay"])["relays"][0].clone();
    let destination = relay()["destination"].as_str().unwrap().to_owned();
    let halted = ReaderKind::HaltedRelay.name_of(&Name::new("destination", &destination).unwrap());
    live.store.save_checkpoint(&halted, Position::new(9)).await.unwrap();
    assert_eq!((&relay()["position"], &relay()["halted_at"]), (&json!("4"), &json!("9")));

    let dry = live.run(&["--dry-run", "relay", "republish", "--after", "2"]);
    let question = format!("publish all events after position 2 again to {destination}, which has those up to 4");
    assert_eq!((dry.code, dry.err), (0, format!("dry run: {question}; nothing is changed\n")));
    assert_eq!(live.run(&["relay", "republish", "--after", "2"]).code, 4);
    assert_eq!((&relay()["position"], &relay()["halted_at"]), (&json!("4"), &json!("9")), "it is asked first");

    let again = live.document(&["--yes", "relay", "republish", "--after", "2"]);
    assert_json(&again, &json!({ "version": 1, "as_of": "TIME", "destination": destination, "position": "2" }));
    assert_eq!((&relay()["position"], &relay()["halted_at"]), (&json!("2"), &Value::Null));
    let app = live.start_app().await;
    live.wait_for(&["relay"], |document| document["relays"][0]["position"] == "4").await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    let shared = live.document(&["--yes", "relay", "republish"]);
    assert_eq!(shared["position"], "4", "stream and store share all events");

    let without_bus = eventbus(&["--store", live.database.url(), "--yes", "relay", "republish", "--after", "2"]);
    assert_eq!(without_bus.code, 64, "{without_bus:?}");
    let wanted = format!("no relay of this store has published to store, but to {destination}:");
    assert!(without_bus.err.contains(&wanted), "{without_bus:?}");
    let other = eventbus_test::unique_name("other");
    let config = RedisEventBusConfig {
        redis_url: live.redis.url().into(),
        stream_prefix: other.clone(),
        ..RedisEventBusConfig::default()
    };
    let _other = RedisEventBus::connect(config).await.unwrap();
    let mistyped = ["--store", live.database.url(), "--bus", live.redis.url(), "--prefix", &other];
    for order in [&["relay", "republish", "--after", "2"][..], &["relay", "skip", "2", "--reason", "test data"]] {
        let refused = eventbus(&[&mistyped[..], &["--yes"], order].concat());
        assert_eq!(refused.code, 64, "{refused:?}");
        assert!(refused.err.contains(&format!("has published to redis:{other}:stream")), "{refused:?}");
    }
    let beyond = live.run(&["--yes", "relay", "republish", "--after", "5"]);
    assert_eq!((beyond.code, beyond.err.as_str()), (64, "error: the store ends at position 4\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_begins_after_a_position() {
    let live = LiveApp::start().await;
    live.stop().await;
    let prefix = eventbus_test::unique_name("begin");
    let (stream, destination) = (format!("{prefix}:stream"), format!("redis:{prefix}:stream"));
    let mut redis = eventbus_test::internal::redis_connection(live.redis.url()).await;
    // as a service in Python creates it
    let () =
        redis::cmd("XGROUP").arg(&["CREATE", &stream, "mail", "0", "MKSTREAM"]).query_async(&mut redis).await.unwrap();
    let arguments = ["--store", live.database.url(), "--bus", live.redis.url(), "--prefix", &prefix];
    let run = |order: &[&str]| eventbus(&[&arguments[..], order].concat());
    let dry = run(&["--dry-run", "relay", "begin", "--after", "3"]);
    let question = format!(
        "have the relay to {destination} begin after position 3, and never publish the events up to there; the store ends at \
         position 4"
    );
    assert_eq!((dry.code, dry.err), (0, format!("dry run: {question}; nothing is changed\n")));
    assert_dry_run(&run(&["--json", "--dry-run", "relay", "begin", "--after", "3"]), &question);
    assert_eq!(run(&["relay", "begin", "--after", "3"]).code, 4);
    let beyond = run(&["--yes", "relay", "begin", "--after", "5"]);
    assert_eq!((beyond.code, beyond.err.as_str()), (64, "error: the store ends at position 4\n"));
    let begun = run(&["--yes", "relay", "begin", "--after", "3"]);
    assert_eq!((begun.code, begun.out), (0, format!("the relay to {destination} begins after position 3\n")));
    let again = run(&["--yes", "relay", "begin", "--after", "2"]);
    let wanted = format!("error: the relay to {destination} has begun already, and goes on after position 3\n");
    assert_eq!((again.code, again.err), (64, wanted.replace(&destination, &format!("`{destination}`"))));

    let published = live.run(&["--yes", "relay", "begin", "--after", "3"]);
    assert!(published.code == 64 && published.err.ends_with("goes on after position 4\n"), "{published:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_an_event_is_shown_as_far_as_anything_knows_it() {
    let live = LiveApp::start().await;
    let charged = HandledDelivery {
        handler: Name::from_static("billing/charge"),
        stream: StreamId::parse("Order", "o-1").unwrap(),
        event_id: live.ids[0],
    };
    let note = MultiStreamAppend { handled: Some(Handled::Delivery(charged)), ..Default::default() };
    live.store.append_streams(note).await.unwrap();
    let retried = vec![NewEvent::from_event(&OrderReturned {}).unwrap()];
    live.store.append(&StreamId::parse("Order", "o-3").unwrap(), ExpectedVersion::NoStream, retried).await.unwrap();
    let why = |event: EventId| live.document(&["why", &event.to_string()])["events"][0].clone();
    let pending = || live.document(&["groups", "show", "mail"])["pending"][0].clone();
    let waiting = async {
        while pending()["failed_runs"].as_u64().unwrap_or_default() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the first run fails");
    let wanted = json!(["take_back", "the shelf is full"]);
    assert_eq!((&pending()["stream"], &pending()["failed"][0]), (&json!("Order/o-3"), &wanted));

    let placed = why(live.ids[0]);
    assert_eq!((&placed["handled_by"], &placed["waiting"]), (&json!(["billing/charge"]), &json!([])));
    assert!(live.run(&["why", &live.ids[0].to_string()]).out.contains("\n  handled by billing/charge\n"));
    let shipped = why(live.ids[1]);
    assert_eq!((&shipped["dead_letters"][0]["handler"], &shipped["handled_by"]), (&json!("send"), &json!([])));
    assert_eq!((&placed["handlers_unknown"], &shipped["handlers_unknown"]), (&json!(false), &json!(false)));
    assert_eq!(why(live.ids[2])["handlers_unknown"], true);
    let other = live.run(&["why", &live.ids[2].to_string()]).out;
    assert!(other.ends_with("  handlers unknown\n"), "{other}");

    let group = live.document(&["groups", "show", "mail"]);
    assert_eq!((&group["consumers"][0]["pending"], &group["pending"][0]["failed"][0]), (&json!(1), &wanted), "{group}");
    assert_eq!(group["pending"][0]["event_type"], "OrderReturned");
    let shown = live.run(&["groups", "show", "mail"]).out;
    assert!(shown.contains("OrderReturned") && shown.contains("the shelf is full"), "{shown}");
    assert_eq!(live.run(&["groups", "show", "post"]).code, 1);
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_stopped_at_an_event_skips_it() {
    let live = LiveApp::start().await;
    let broken = vec![NewEvent::from_event(&OrderPlaced { cents: -1 }).unwrap()];
    live.store.append(&StreamId::parse("Order", "o-3").unwrap(), ExpectedVersion::NoStream, broken).await.unwrap();
    let totals = |document: &Value| document["projections"][0].clone();
    let app = &live.app;
    let stopped = async {
        while app.projections().await.unwrap()[0].stopped.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stopped).await.expect("it stops");
    let shown = totals(&live.document(&["projections"]));
    assert_eq!((&shown["position"], &shown["head"]), (&json!("4"), &json!("5")));
    let stop = &shown["stopped"];
    let event = [&stop["position"], &stop["event_type"], &stop["event_id"], &stop["owner"], &stop["since"]];
    assert_eq!(event, ["5", "OrderPlaced", "UUID", "OWNER", "TIME"], "{shown}");
    assert!(stop["error"].as_str().unwrap().contains("violates check constraint"), "{shown}");
    for command in ["projections", "status"] {
        let text = live.run(&[command]).out;
        assert!(text.contains("\ntotals stopped at position 5 (OrderPlaced): "), "{text}");
        assert!(text.contains("; since 20") && text.contains("Z, in process "), "{text}");
    }

    let skip = ["--yes", "projections", "skip", "totals", "5", "--reason", "imported without an owner"];
    let asked = live.run(&skip[1..]);
    let question = "have projection `totals` skip for good the event at position 5, `OrderPlaced` of Order/o-3?\n";
    assert_eq!((asked.code, asked.err.starts_with(question)), (4, true), "{asked:?}");
    let wanted = json!({
        "version": 1, "as_of": "TIME", "reader": "projection:totals", "position": "5", "skipped": true, "changed": true,
    });
    assert_json(&live.document(&skip), &wanted);
    assert_eq!(totals(&live.document(&["projections"]))["stopped"], Value::Null, "it skips the event");
    let passed = live.wait_for(&["projections"], |document| totals(document)["position"] == "5").await;
    assert_eq!(totals(&passed)["skipped"][0]["reason"], "imported without an owner");
    assert_eq!(live.document(&skip)["changed"], false, "the list has it already");

    let unskip = ["--yes", "projections", "unskip", "totals", "5"];
    assert_eq!(live.run(&unskip[1..]).code, 4);
    let taken = live.run(&unskip);
    assert_eq!((taken.code, taken.out.as_str()), (0, "projection `totals` skips the event at position 5 no longer\n"));
    assert!(taken.err.contains("is past the event: a rebuild has it handle the event"), "{taken:?}");
    assert_eq!(totals(&live.document(&["projections"]))["skipped"], json!([]));
    assert_eq!(live.run(&unskip).code, 1, "it is on no list any more");
    let mistyped = ["--yes", "projections", "skip", "total", "3", "--reason", "a typing error"];
    let unknown = live.run(&[&["--dry-run"], &mistyped[1..]].concat());
    assert!(unknown.err.contains("projection `total`, which keeps no progress in this store,"), "{unknown:?}");
    assert_eq!(live.run(&mistyped).code, 0);
    let others = live.document(&["projections"])["other_skips"].clone();
    assert_eq!((&others[0]["reader"], &others[0]["skipped"][0]["position"]), (&json!("total"), &json!("3")));
    let noted = live.run(&["projections"]);
    assert!(noted.err.contains("projection `total`, which keeps no progress here, skips 3"), "{noted:?}");
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_skips_an_event_that_no_handler_is_to_get() {
    let live = LiveApp::start().await;
    live.stop().await;
    let stream = StreamId::parse("Order", "o-3").unwrap();
    let placed = vec![NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap()];
    live.store.append(&stream, ExpectedVersion::NoStream, placed).await.unwrap();
    let skip = |position| ["--yes", "relay", "skip", position, "--reason", "test data"];
    let beyond = live.run(&skip("6"));
    assert_eq!(beyond.code, 64, "{beyond:?}");
    assert!(beyond.err.contains("there is no event at position 6: the store ends at 5"), "{beyond:?}");
    let skipped = live.run(&skip("5"));
    assert!(
        skipped.out.ends_with(" skips the event at position 5 from now on\n") && skipped.err.is_empty(),
        "{skipped:?}"
    );
    let published = live.run(&[&["--dry-run"], &skip("4")[1..]].concat());
    let question = "the event at position 4, `OrderShipped` of Order/o-2, which it has published already;";
    assert!(published.err.contains(question), "{published:?}");
    assert_eq!(live.run(&skip("4")).code, 0);
    let reasons = |relay: &Value| relay["relays"][0]["skipped"].as_array().unwrap().len();
    assert_eq!(reasons(&live.document(&["relay"])), 2);
    assert_eq!(live.run(&["--yes", "relay", "unskip", "4"]).code, 0);
    assert_eq!(reasons(&live.document(&["relay"])), 1);
    let in_process =
        eventbus(&["--store", live.database.url(), "--yes", "relay", "skip", "5", "--reason", "test data"]);
    assert_eq!(in_process.code, 64, "no relay follows that list: {in_process:?}");

    let app = live.start_app().await;
    live.wait_for(&["relay"], |document| document["relays"][0]["position"] == "5").await;
    assert_eq!(app.relay_status().await.unwrap().skipped, Some(1));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_is_a_fault_and_not_away() {
    let database = eventbus_test::postgres();
    PgEventStore::connect(database.url()).await.unwrap();
    let role = eventbus_test::unique_name("reader");
    let mut admin = PgConnection::connect(database.url()).await.unwrap();
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA eventbus TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA eventbus TO {role};
         GRANT SELECT ON ALL SEQUENCES IN SCHEMA eventbus TO {role}; REVOKE SELECT ON eventbus.leases FROM {role}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants)).execute(&mut admin).await.unwrap();
    let url = database.url().replace("postgres://postgres@", &format!("postgres://{role}@"));
    let refused = eventbus(&["--store", &url, "projections"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("the store refuses: ") && refused.err.contains("permission denied"), "{refused:?}");
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn following_shows_events_as_they_are_stored() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let append = async |id: &str| {
        let placed = vec![NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap()];
        store.append(&StreamId::parse("Order", id).unwrap(), ExpectedVersion::NoStream, placed).await.unwrap();
    };
    append("before").await;
    let following = Running::start(&["--json", "--store", database.url(), "follow", "--after", "0"]);
    for id in ["before", "one", "two"] {
        if id != "before" {
            append(id).await;
        }
        let line: Value = serde_json::from_str(&following.line()).unwrap();
        assert_eq!(line["event"]["aggregate_id"], id);
    }
    // a replica without the last event takes over
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query("DELETE FROM eventbus.events WHERE position = 3").execute(&mut connection).await.unwrap();
    let said = following.note();
    assert!(said.contains("ends at position 2, and ended at 3 before"), "{said}");
    assert_eq!(following.exit_code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_store_is_read_as_the_others_are() {
    let redis = eventbus_test::redis();
    let config = RedisEventStoreConfig {
        redis_url: redis.url().into(),
        key_prefix: redis.prefix().into(),
        check_durability: false,
        ..RedisEventStoreConfig::default()
    };
    let store = RedisEventStore::connect(config).await.unwrap();
    for id in ["o-1", "o-2", "x"] {
        let placed = vec![NewEvent::from_event(&OrderPlaced { cents: 1 }).unwrap()];
        store.append(&StreamId::parse("Order", id).unwrap(), ExpectedVersion::NoStream, placed).await.unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut all = vec!["--json", "--store", redis.url(), "--store-prefix", redis.prefix()];
        all.extend(arguments);
        eventbus(&all)
    };
    let document = run(&["streams", "list", "--id-prefix", "o-"]).masked_json();
    let mut streams = document["streams"].as_array().unwrap().clone();
    streams.sort_by_key(|row| row["aggregate_id"].to_string());
    let row = |id: &str| json!({ "aggregate_type": "Order", "aggregate_id": id, "tenant": null, "version": 1, "recorded_at": "TIME" });
    assert_eq!(streams, [row("o-1"), row("o-2")]);
    let of_a_database = r#"["o-2","Order","00000000-0000-0000-0000-000000000000"]"#;
    let refused = run(&["streams", "list", "--after", of_a_database]);
    assert!(refused.code == 64 && refused.err.contains("is no place where a page of streams begins"), "{refused:?}");
    assert_eq!(run(&["follow", "--after", "1", "--until", "head"]).documents().len(), 2);
    assert_eq!(run(&["status"]).masked_json()["head"], "3");
    // the commands show a reader that waits at an event which the store cannot read
    store.save_checkpoint(&Name::from_static("projection:totals"), Position::new(1)).await.unwrap();
    let mut connection = eventbus_test::internal::redis_connection(redis.url()).await;
    let stream = format!("{}:aggregate:Order:o-2", redis.prefix());
    let removed: u64 = redis::cmd("DEL").arg(stream).query_async(&mut connection).await.unwrap();
    assert_eq!(removed, 1);
    let waiting = run(&["projections"]).masked_json()["projections"][0].clone();
    assert_eq!((&waiting["position"], &waiting["events"], &waiting["seconds"]), (&json!("1"), &json!(2), &Value::Null));
    assert_eq!(run(&["lag", "--over-time", "1h"]).code, 1, "nothing says that it is not late");
    let dry = run(&["--dry-run", "projections", "skip", "totals", "2", "--reason", "lost"]);
    assert!(dry.err.contains("skip for good the event at position 2, which the store cannot read;"), "{dry:?}");
    let schema = run(&["schema"]).masked_json();
    let wanted = json!({
        "version": 1, "as_of": "TIME", "at": 1, "known": null, "min_reader": 1, "migrations": [],
    });
    assert_json(&schema, &wanted);
}

/// Fails if a page of few streams examines few keys with each request.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_streams_that_matches_none_costs_few_requests_of_redis() {
    let redis = eventbus_test::private_redis();
    let config = RedisEventStoreConfig {
        redis_url: redis.url().into(),
        check_durability: false,
        ..RedisEventStoreConfig::default()
    };
    RedisEventStore::connect(config).await.unwrap();
    let mut connection = eventbus_test::internal::redis_connection(redis.url()).await;
    let keys: Vec<String> = (0..3_000).flat_map(|number| [format!("key-{number}"), String::new()]).collect();
    let _: () = redis::cmd("MSET").arg(&keys[..]).query_async(&mut connection).await.unwrap();
    let found = eventbus(&["--json", "--store", redis.url(), "streams", "list", "--id-prefix", "none", "--limit", "1"]);
    assert_eq!(found.masked_json()["streams"], json!([]));
    let statistics: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let calls = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls=")?.split(',').next());
    let calls: u64 = calls.unwrap().parse().unwrap();
    assert!((3..100).contains(&calls), "{calls} requests");
}

/// A bus whose user lacks a right is there, and says which.
#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_refuses_is_not_unreachable() {
    let redis = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(redis.url()).await;
    let entry = ["orders:stream", "*", "event_type", "OrderPlaced"];
    let _: String = redis::cmd("XADD").arg(&entry[..]).query_async(&mut connection).await.unwrap();
    let rights = ["SETUSER", "app", "on", ">pw", "~*", "+@all", "-xinfo"];
    let _: String = redis::cmd("ACL").arg(&rights[..]).query_async(&mut connection).await.unwrap();
    let bus = redis.url().replace("redis://", "redis://app:pw@");
    for command in [&["groups"][..], &["lag"]] {
        let refused = eventbus(&[&["--bus", &bus, "--prefix", "orders"], command].concat());
        assert!(refused.code == 2 && refused.err.contains("xinfo"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_shown_without_a_store() {
    let redis = eventbus_test::redis();
    let config = RedisEventBusConfig {
        redis_url: redis.url().into(),
        stream_prefix: redis.prefix().into(),
        ..RedisEventBusConfig::default()
    };
    let _bus = RedisEventBus::connect(config).await.unwrap();
    let arguments = ["--json", "--bus", redis.url(), "--prefix", redis.prefix()];
    let groups = eventbus(&[&arguments[..], &["groups"]].concat()).masked_json();
    assert_eq!(groups["groups"], json!([]), "no consumer has made one");
    assert_eq!(eventbus(&[&arguments[..], &["lag", "--over", "0"]].concat()).code, 0);
    let status = eventbus(&[&arguments[..], &["status"]].concat()).masked_json();
    assert_eq!((&status["store"], &status["head"]), (&Value::Null, &Value::Null));
    assert_eq!(eventbus(&[&arguments[..], &["projections"]].concat()).code, 64, "these are in a store");
}

/// `status` shows the server that answers, then the error of the other one.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_server_that_answers() {
    let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
    drop(PgEventStore::connect(database.url()).await.unwrap());
    let _bus = connect_bus(redis.url(), redis.prefix()).await;
    let port = closed_port();
    let absent_store = format!("postgres://app:s3cret@127.0.0.1:{port}/orders");
    let absent_bus = format!("redis://app:s3cret@127.0.0.1:{port}");
    let status = |store: &str, bus: &str, more: &[&str]| {
        let ran =
            eventbus(&[&["--store", store, "--bus", bus, "--prefix", redis.prefix(), "status"][..], more].concat());
        assert!(ran.code == 3 && ran.err.starts_with("error: ") && ran.err.lines().count() == 1, "{ran:?}");
        assert!(!format!("{ran:?}").contains("s3cret"), "{ran:?}");
        ran
    };
    let shown = status(database.url(), &absent_bus, &[]);
    assert!(shown.out.starts_with("store         PgEventStore "), "{shown:?}");
    assert!(shown.out.contains("\nbus           -\ndead letters  -\n"), "{shown:?}");
    let document = status(database.url(), &absent_bus, &["--json"]).documents().remove(0);
    assert!(document["head"].is_string() && document["bus_error"].as_str().unwrap().starts_with("Redis at "));
    let absent = [&document["bus"], &document["dead_letters"], &document["store_error"]];
    assert_eq!(absent, [&Value::Null; 3], "{document}");

    let shown = status(&absent_store, redis.url(), &[]);
    assert!(shown.out.starts_with("store         -\n") && shown.out.contains("\ndead letters  0\n"), "{shown:?}");
    let document = status(&absent_store, redis.url(), &["--json"]).documents().remove(0);
    assert!(document["store_error"].as_str().unwrap().starts_with("PostgreSQL at "), "{document}");
    assert!(document["bus"].as_str().unwrap().contains(redis.prefix()), "{document}");
    assert_eq!((&document["store"], &document["bus_error"]), (&Value::Null, &Value::Null), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_with_tls_and_dead_letters_of_its_own_name_is_operated() {
    let (server, prefix) = (TlsServer::start("127.0.0.1"), eventbus_test::unique_name("bus"));
    let config = RedisEventBusConfig {
        redis_url: server.url(),
        tls_ca_file: Some(server.authority()),
        stream_prefix: prefix.clone(),
        dlq_stream_suffix: "_dead".into(),
        ..RedisEventBusConfig::default()
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).bus(bus.clone()).consume("orders", bus);
    let app = app.handler::<send_of_stream>().start().await.unwrap();
    let shipped = NewEvent::from_event(&OrderShipped { parcel: "of o-1".into() }).unwrap();
    let stream = StreamId::parse("Order", "o-1").unwrap();
    store.append(&stream, ExpectedVersion::NoStream, vec![shipped]).await.unwrap();
    assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 1, .. })));

    let (url, authority) = (server.url(), server.authority());
    let run = |options: &[&str], command: &[&str]| {
        eventbus(&[&["--bus", &url, "--prefix", &prefix], options, command].concat())
    };
    let list = ["--json", "dead-letters", "list"];
    let trusting = ["--tls-ca-file", authority.to_str().unwrap()];
    let count = |options: &[&str]| {
        let ran = run(&[&trusting[..], options].concat(), &list);
        ran.documents()[0]["dead_letters"].as_array().unwrap().len()
    };
    assert_eq!((count(&["--dlq-suffix", "_dead"]), count(&[])), (1, 0));
    let unknown = run(&[], &list);
    assert!(unknown.code == 2 && unknown.err.contains("is not trusted"), "{unknown:?}");
    for (options, code) in [(&trusting[..], 0), (&[], 3)] {
        let ran = run(options, &["doctor", "--only", "redis-tls"]);
        assert_eq!(ran.code, code, "{ran:?}");
    }
    let missing = run(&["--tls-ca-file", "missing.pem"], &["doctor"]);
    assert!(missing.code == 64 && missing.err.contains("`tls_ca_file` (missing.pem) cannot be read"), "{missing:?}");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_makes_each_named_check_on_the_redis_that_it_is_about() {
    let (of_store, of_bus) = (eventbus_test::redis(), eventbus_test::private_redis());
    let (key_prefix, stream_prefix) = (of_store.prefix().to_owned(), eventbus_test::unique_name("bus"));
    let config = RedisEventStoreConfig { redis_url: of_store.url().into(), key_prefix, ..Default::default() };
    let store = RedisEventStore::connect(config).await.unwrap();
    let config = RedisEventBusConfig { redis_url: of_bus.url().into(), stream_prefix, ..Default::default() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let stream_prefix = &*bus.config().stream_prefix;
    let of_servers = ["--store", of_store.url(), "--store-prefix", of_store.prefix(), "--bus", of_bus.url()];
    let doctor = |checks: &str| {
        eventbus(&[&of_servers[..], &["--prefix", stream_prefix, "--json", "doctor", "--only", checks]].concat())
    };
    let ran = doctor("redis-store-format,redis-store-checkpoint-ahead,group-unattended,redis-tls");
    let of = |healthy: &[&str]| json!({ "healthy": healthy, "findings": [], "not_checked": [], "skipped": [] });
    let reports = ran.documents();
    let parts = ["healthy", "findings", "not_checked", "skipped"];
    let shown: Vec<_> =
        reports.iter().map(|report| Value::from_iter(parts.map(|part| (part, report[part].clone())))).collect();
    let of_store_healthy = ["redis-tls", "redis-store-format", "redis-store-checkpoint-ahead"];
    assert_eq!(shown, [of(&of_store_healthy), of(&["redis-tls", "group-unattended"])]);
    assert_eq!(ran.code, 0);

    // the relay's record on the one server, the events on the other one
    assert_eq!(doctor("relay-ahead").code, 0);
    let key = keys::relay(&keys::stream(stream_prefix));
    let mut record = redis::cmd("HSET");
    record.arg((key, store.store_id().await.unwrap().to_string(), "9 - -"));
    let mut connection = eventbus_test::internal::redis_connection(of_bus.url()).await;
    let _: u64 = record.query_async(&mut connection).await.unwrap();
    let ahead = doctor("relay-ahead");
    assert!(ahead.code == 2 && ahead.out.contains("up to position 9, and the store ends at 0"), "{ahead:?}");

    // both on one
    let both = ["--store", of_store.url(), "--store-prefix", of_store.prefix(), "--bus", of_store.url()];
    let ran = eventbus(&[&both[..], &["doctor", "--only", "redis-store-checkpoint-ahead"]].concat());
    assert!(ran.code == 0 && ran.out.starts_with("1 check healthy"), "{ran:?}");
}

#[tokio::test]
async fn doctor_takes_the_retention_and_the_role_of_the_application() {
    let database = eventbus_test::postgres();
    PgEventStore::connect(database.url()).await.unwrap();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let dead = "INSERT INTO eventbus.handler_rows (handler, shard, position, attempts, dead_since, is_held)
                VALUES ('mail', 0, 1, '{}', now() - interval '8 days', false)";
    sqlx::query(dead).execute(&mut connection).await.unwrap();
    let doctor = |arguments: &[&str]| {
        let all = ["--store", database.url(), "doctor"];
        eventbus(&all.iter().chain(arguments).copied().collect::<Vec<_>>())
    };
    assert_eq!(doctor(&["--only", "pg-dead-letter-age"]).code, 0);
    let forgotten = doctor(&["--only", "pg-dead-letter-age", "--inbox-retention", "7d"]);
    assert_eq!(forgotten.code, 1);
    assert!(forgotten.out.contains("8 days old, and the inbox remembers 7 days"), "{}", forgotten.out);
    let unknown = doctor(&["--only", "pg-rights-few", "--app-role", "nemo"]);
    assert!(unknown.code == 1 && unknown.out.contains("nemo"), "{}", unknown.out);
}
