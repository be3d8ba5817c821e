//! Stored data of every released format is read, and written on, by today's code.
//!
//! The files are never made again; `tests/src/bin/make-fixtures.rs` says how they were made.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, time::Duration};

use eventbus::{
    App, ExpectedVersion, LoadError, Name, Never, Position, RecordedEvent, Uuid, Version,
    clock::SystemClock,
    event::{DecodeError, Tag},
    port::{Append, AppendError, DeadLetterFilter, DeadLetters as _, Direction, EventStore, FeedFilter, ReadFeed as _},
    store::{Boundary, HandledDelivery, MultiStreamAppend},
};
use eventstore_postgres::PgEventStore;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;
use serde_json::Value;
use workspace_tests::fixtures::{
    FORMATS, StoredFormat,
    bus::BusAndStore,
    contents::Contents,
    courses::{self, Seats},
    postgres,
    progress::{EXPIRED_ROLE, HELD_ROLE, handle, inbox},
    readers::{GROUP, OpenStore, Receipts, with_handlers},
    redis_commands,
    scenario::{ORDERS, appends, event, order},
    users::{self, CardAdded, EmailGiven},
};

fn text(format: StoredFormat, name: &str) -> String {
    let path = format.folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expected(format: StoredFormat, name: &str) -> Value {
    serde_json::from_str(&text(format, name)).unwrap()
}

fn expected_events(format: StoredFormat) -> Vec<Value> {
    text(format, "events.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Compares field by field, so that a failure names the field.
fn assert_same(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_object().unwrap(), expected.as_object().unwrap());
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (field, wanted) in expected {
        assert_eq!(&found[field], wanted, "{field}");
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

/// The store returns what it held, takes further appends, and its readers go on where they were.
async fn is_read_and_written_on(store: &OpenStore, format: StoredFormat, name: &str) {
    let wanted = expected(format, name);
    let contents = Contents::read(store).await.unwrap();
    let (mut events, has_tags) = (expected_events(format), store.port().boundaries().is_some());
    events.retain(|event| has_tags || !courses::is_tagged(event));
    for (found, wanted) in contents.events.iter().zip(&events) {
        assert_eq!(found, wanted);
    }
    assert_eq!(contents.events.len(), events.len());
    assert_same(&contents.of_store, &wanted);
    for (row, (.., is_handled)) in contents.of_store["inbox"].as_array().unwrap().iter().zip(inbox().unwrap()) {
        assert_eq!(row[3]["is_first"], !is_handled, "{row}");
    }
    repeated_appends_write_nothing(&*store.port()).await;
    appends_go_on(&*store.port()).await;
    progress_goes_on(&*store.port()).await;
    readers_go_on(store).await;
    sealed_fields_are_refused(store).await;
    snapshots_are_used(store).await;
    unique_values_are_held(store).await;
    if has_tags {
        tags_are_followed_and_decided_about(store).await;
    }
    commands_take_effect_once(store).await;
}

async fn repeated_appends_write_nothing(port: &dyn EventStore) {
    let head = port.head().await.unwrap();
    for Append { stream, events, .. } in appends().unwrap() {
        let wanted: Vec<_> = events.iter().map(|event| event.event_id()).collect();
        let again = port.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
        let found: Vec<_> = again.iter().map(|record| record.metadata().event_id()).collect();
        assert_eq!(found, wanted, "{stream}");
        let stored = port.read_stream(&stream, again[0].version(), Direction::Forward);
        let stored: Vec<_> = stored.try_collect().await.unwrap();
        assert_eq!(again, stored[..again.len()], "{stream}");
    }
    assert_eq!(port.head().await.unwrap(), head);
}

/// Appends `events` after version `before`, and checks where they are.
async fn append(port: &dyn EventStore, append: Append, before: u64) -> Vec<RecordedEvent> {
    let (head, stream) = (port.head().await.unwrap(), append.stream.clone());
    let records = port.append(&stream, append.expected, append.events).await.unwrap();
    let feed: Vec<_> = port.read_all(head).try_collect().await.unwrap();
    assert_eq!(feed, records, "the feed goes on with them");
    let versions: Vec<_> = records.iter().map(|record| record.version().get()).collect();
    let wanted: Vec<_> = (before + 1..).take(records.len()).collect();
    assert_eq!(versions, wanted, "{stream}");
    let last = Version::new(before);
    let earlier: Vec<_> = port.read_stream(&stream, last, Direction::Backward).try_collect().await.unwrap();
    if let Some(earlier) = earlier.first() {
        assert!(earlier.metadata().recorded_at() <= records[0].metadata().recorded_at(), "{stream}");
    }
    records
}

async fn appends_go_on(port: &dyn EventStore) {
    let item = |number| event(number, "ItemAdded", 2, r#"{"sku":"new","count":1}"#);
    let at = |stream, expected, number| Append { stream, expected, events: vec![item(number), item(number + 1)] };
    let exact = |version| ExpectedVersion::Exact(Version::new(version));
    append(port, at(order("three", None).unwrap(), exact(3), 5_000), 3).await;
    let tenant_of = |append: &Append| append.stream.tenant_id();
    for (index, before) in [(2, 2), (3, 1)] {
        let tenant = tenant_of(&appends().unwrap()[index]);
        append(port, at(order("three", tenant).unwrap(), exact(before), 5_000), before).await;
    }
    let newcomer = order("three", Some(eventbus::Uuid::from_u128(7))).unwrap();
    append(port, at(newcomer, ExpectedVersion::NoStream, 5_000), 0).await;
    let refused =
        port.append(&order("one", None).unwrap(), ExpectedVersion::Exact(Version::NONE), vec![item(5_100)]).await;
    assert!(matches!(&refused, Err(AppendError::Conflict { actual, .. }) if *actual == 1), "{refused:?}");
    // an event id of the data, in a stream that did not hold it
    let mixed = vec![event(1, "EntryBooked", 1, r#"{"cents":5}"#)];
    let ledger =
        Append { stream: eventbus::StreamId::parse("Ledger", "longest").unwrap(), expected: exact(300), events: mixed };
    append(port, ledger, 300).await;
}

async fn progress_goes_on(port: &dyn EventStore) {
    let (name, owner, minute) = (Name::from_static, Name::from_static("today"), Duration::from_secs(60));
    assert!(port.acquire_lease(&HELD_ROLE, &owner, minute).await.unwrap().is_none(), "it is held");
    let held = port.lease_of(&HELD_ROLE).await.unwrap().unwrap();
    let expired = port.acquire_lease(&EXPIRED_ROLE, &owner, minute).await.unwrap().unwrap();
    assert!(expired.epoch > 2, "it was acquired twice: {expired:?}");
    let seized = port.seize_lease(&HELD_ROLE, &owner, minute).await.unwrap();
    assert!(seized.epoch > held.epoch, "{seized:?} {held:?}");
    port.save_checkpoint(&name("reader: é/ü"), Position::new(8)).await.unwrap();
    assert_eq!(port.load_checkpoint(&name("reader: é/ü")).await.unwrap(), Some(Position::new(8)));
    let notes = port.notes().unwrap();
    notes.delete_note(&name("note: é/ü")).await.unwrap();
    assert_eq!(notes.load_note(&name("note: é/ü")).await.unwrap(), None);
    for (handler, stream, event_id, is_handled) in inbox().unwrap() {
        let delivery = HandledDelivery { handler, stream, event_id };
        assert_eq!(handle(port, delivery.clone()).await.unwrap(), !is_handled, "{delivery:?}");
    }
}

/// Each handler gets its unfinished deliveries and the new events, no other event; the projection adds new events only.
async fn readers_go_on(store: &OpenStore) {
    let (port, receipts) = (store.port(), Receipts::default());
    receipts.mend();
    let builder = store.with_projection(App::builder().store(store.port()));
    let app = with_handlers(builder, &receipts).start().await.unwrap();
    let head = port.head().await.unwrap();
    store.projected(&app, head).await.unwrap();
    let rows = if matches!(store, OpenStore::Redis(_)) { "" } else { "longest 44855 301, shared -1 1" };
    assert_eq!(store.rows().await.unwrap(), rows);
    app.settled().await.unwrap();
    let mut calls = vec!["receipt  1 later 2".to_owned(), "receipt  2 good 1".into()];
    for stream in [" 4", " 5", "a 3", "a 4", "b 2", "b 3", "0 1", "0 2"] {
        calls.extend([format!("receipt {stream} new 1"), format!("tally {stream} new 1")]);
    }
    calls.sort();
    assert_eq!(receipts.take(), calls);
    let dead_letters = app.bus().dead_letters().unwrap();
    let letters = dead_letters.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let of_group = letters.iter().find(|letter| letter.group.as_deref() == Some(GROUP)).unwrap();
    assert_eq!(of_group.handler.as_deref(), Some("receipt"));
    assert_eq!(of_group.error.as_deref(), Some("it's \"bad\": é"));
    assert!(dead_letters.replay(&of_group.id).await.unwrap());
    until("the dead letter is handled", async || receipts.count() > 0).await;
    app.settled().await.unwrap();
    assert_eq!(receipts.take(), ["receipt a 2 bad 1"]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// A load applies the events after the snapshot only, and its state is that of all events.
async fn snapshots_are_used(store: &OpenStore) {
    for (stream, events, in_snapshot) in
        users::users().unwrap().into_iter().filter(|(.., in_snapshot)| *in_snapshot > 0)
    {
        let users = users::repository(store).for_tenant(stream.tenant_id());
        let (id, version) = (stream.aggregate_id(), Version::new(events.len() as u64));
        let loaded = users.load(id).await.unwrap();
        assert_eq!(users::take_applied(), (events.len() - in_snapshot) as u64, "{stream}");
        let replayed = users.load_at(id, version).await.unwrap();
        assert_eq!(users::take_applied(), events.len() as u64, "{stream}");
        assert_eq!((loaded.state(), loaded.version()), (replayed.state(), version), "{stream}");
        // a later one takes its place
        users.upsert(id, |_| Ok::<_, Never>(CardAdded { number: "1".into() })).await.unwrap();
        assert_eq!(users.snapshot(id).await.unwrap(), version.plus(1), "{stream}");
        let _ = users::take_applied();
        assert_eq!(users.load(id).await.unwrap().version(), version.plus(1), "{stream}");
        assert_eq!(users::take_applied(), 0, "{stream}");
    }
}

/// Each value has the holder that it had, no other stream takes it until its holder gives it back, and a value that was
/// given back is free.
async fn unique_values_are_held(store: &OpenStore) {
    let port = store.port();
    let unique = port.unique_values().unwrap();
    for (number, (key, holder)) in (6_000..).step_by(10).zip(users::holders().unwrap()) {
        assert_eq!(unique.find_holder(&key).await.unwrap(), holder, "{key:?} {}", key.value());
        if key.aggregate_type() != "User" {
            continue;
        }
        let newcomer = users::user("newcomer", key.tenant_id()).unwrap();
        let taking = vec![users::given(number, Some(key.value())).unwrap()];
        let before = port.stream_version(&newcomer).await.unwrap();
        let taken = port.append(&newcomer, ExpectedVersion::Any, taking.clone()).await;
        if let Some(holder) = holder {
            assert!(taken.is_err_and(|error| error.is_taken("email")), "{} of {holder}", key.value());
            assert_eq!(port.stream_version(&newcomer).await.unwrap(), before, "no event was stored");
            let released = vec![users::given(number + 1, None).unwrap()];
            port.append(&holder, ExpectedVersion::Any, released).await.unwrap();
            port.append(&newcomer, ExpectedVersion::Any, taking).await.unwrap();
        } else {
            taken.unwrap();
        }
        assert_eq!(unique.find_holder(&key).await.unwrap(), Some(newcomer.clone()), "{}", key.value());
        let released = vec![users::given(number + 2, None).unwrap()];
        port.append(&newcomer, ExpectedVersion::Any, released).await.unwrap();
    }
    let found = users::repository(store).find_by("email", "nobody@example.org").await.unwrap();
    assert!(found.is_none());
}

/// Each tenant has one seat left: it is taken once, and what was counted before is a conflict then.
async fn tags_are_followed_and_decided_about(store: &OpenStore) {
    let (port, app) = (store.port(), courses::app(store).await.unwrap());
    let taken = async |tenant: Option<Uuid>| {
        let seats = app.decision::<Seats>().for_tenant(tenant).about("course", courses::ODD_COURSE).load().await;
        seats.unwrap().students
    };
    for tenant in courses::tenants() {
        assert_eq!(taken(tenant).await, ["ada", "bob"], "{tenant:?}");
        let of_ada = [Tag::new("course", courses::ODD_COURSE).unwrap(), Tag::new("student", "ada").unwrap()];
        let boundary = Boundary {
            tenant_id: tenant,
            event_types: [Name::from_static("SeatTaken")].into(),
            items: of_ada.into_iter().map(|tag| [tag].into()).collect(),
        };
        let boundaries = port.boundaries().unwrap();
        let before = boundaries.count_tagged(&boundary).await.unwrap();
        let third = courses::take_seat(&app, tenant, "carl", None).await.unwrap();
        let refused = courses::take_seat(&app, tenant, "dora", None).await.unwrap_err();
        assert_eq!(refused.to_string(), "no seat is left");
        assert_eq!(taken(tenant).await, ["ada", "bob", "carl"], "{tenant:?}");
        let append = Append {
            stream: third[0].metadata().stream().clone(),
            expected: ExpectedVersion::Any,
            events: vec![event(5_200, "SeatTaken", 1, "{}")],
        };
        let late = MultiStreamAppend { appends: vec![append], condition: Some(before), ..Default::default() };
        let late = port.multi_stream_appends().unwrap().append_streams(late).await;
        assert!(matches!(late, Err(AppendError::BoundaryMoved { .. })), "{late:?}");
        let filter =
            FeedFilter::all().tenant(tenant.unwrap_or_default()).tagged(boundary.items.iter().flatten().cloned());
        let followed: Vec<_> =
            port.read_feed(Position::START, port.head().await.unwrap(), &filter).try_collect().await.unwrap();
        assert_eq!(followed.len(), 1, "ada in the course: {followed:?}");
    }
    let late = FeedFilter::all().tagged([Tag::new("course", courses::LATE_COURSE).unwrap()]);
    let late: Vec<_> = port.read_feed(Position::START, port.head().await.unwrap(), &late).try_collect().await.unwrap();
    let first = port.read_all(Position::START).try_next().await.unwrap().unwrap();
    assert_eq!(late, [first]);
}

/// A command that took effect returns its result, also when the rule refuses it since.
async fn commands_take_effect_once(store: &OpenStore) {
    let (port, app) = (store.port(), courses::app(store).await.unwrap());
    let head = port.head().await.unwrap();
    for tenant in courses::tenants().into_iter().filter(|_| port.boundaries().is_some()) {
        let again = courses::take_seat(&app, tenant, "bob", Some(courses::SEAT_KEY)).await.unwrap();
        assert_eq!(again.len(), 1, "{tenant:?}");
        assert!(again[0].payload().contains("bob") && again[0].metadata().tenant_id() == tenant, "{again:?}");
        let other = courses::take_seat(&app, tenant, "eve", Some(courses::SEAT_KEY)).await.unwrap_err();
        assert!(other.to_string().contains("key"), "{other}");
    }
    let again = courses::give_email(&app).await.unwrap();
    assert_eq!(again[0].metadata().aggregate_id().as_str(), courses::EMAIL_USER);
    assert_eq!(port.head().await.unwrap(), head, "nothing was stored");
    let _ = users::take_applied();
}

/// The event with sealed fields is read as text, and refused as a value, by its stream and by the feed.
async fn sealed_fields_are_refused(store: &OpenStore) {
    let (port, dora) = (store.port(), users::user("dora", None).unwrap());
    let by_stream: Vec<_> = port.read_stream(&dora, Version::FIRST, Direction::Forward).try_collect().await.unwrap();
    let by_feed: Vec<_> = port.read_all(Position::START).try_collect().await.unwrap();
    let by_feed: Vec<_> = by_feed.into_iter().filter(|event| *event.metadata().stream() == dora).collect();
    for [sealed, plain] in [by_stream, by_feed].map(|events| <[RecordedEvent; 2]>::try_from(events).unwrap()) {
        let refused = sealed.decode::<CardAdded>();
        assert!(matches!(&refused, Err(DecodeError::SealedFields { event_type }) if event_type == "CardAdded"));
        assert!(plain.decode::<EmailGiven>().is_ok());
    }
    let refused = users::repository(store).load(dora.aggregate_id()).await;
    assert!(
        matches!(&refused, Err(LoadError::Decode { version, source: DecodeError::SealedFields { .. }, .. }) if *version == 1),
        "{refused:?}"
    );
}

#[tokio::test]
async fn files_of_sqlite_are_read_and_written_on() {
    for format in FORMATS {
        let scratch = std::env::temp_dir().join(eventbus_test::unique_name("fixtures"));
        fs::create_dir_all(&scratch).unwrap();
        let path = scratch.join("store.db");
        fs::copy(format.folder().join("sqlite.db"), &path).unwrap();
        assert!(!format.folder().join("sqlite.db-wal").exists());
        let store = OpenStore::Sqlite(SqliteEventStore::open(&path).await.unwrap());
        is_read_and_written_on(&store, format, "sqlite.json").await;
        drop(store);
        fs::remove_dir_all(scratch).unwrap();
    }
}

#[tokio::test]
async fn databases_of_postgres_are_read_and_written_on() {
    for format in FORMATS {
        let url = postgres::restore(&text(format, "postgres.sql")).await.unwrap();
        let store = PgEventStore::connect(url).await.unwrap();
        is_read_and_written_on(&OpenStore::Postgres(store.clone()), format, "postgres.json").await;
        store.close().await;
    }
}

#[tokio::test]
async fn the_keys_of_redis_stores_are_read_and_written_on() {
    for format in FORMATS {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        redis_commands::restore(&mut connection, &text(format, "redis.jsonl")).await.unwrap();
        let config =
            RedisEventStoreConfig { redis_url: server.url().into(), key_prefix: "shop".into(), ..Default::default() };
        let store = OpenStore::Redis(RedisEventStore::connect(config).await.unwrap());
        is_read_and_written_on(&store, format, "redis.json").await;
    }
}

/// A dump of what was restored is what was restored, so that the file holds all of it.
#[tokio::test]
async fn a_dump_of_redis_holds_what_it_restores() {
    let files = FORMATS.iter().flat_map(|format| ["redis.jsonl", "redis-bus.jsonl"].map(|name| (*format, name)));
    for (format, name) in files {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        redis_commands::restore(&mut connection, &text(format, name)).await.unwrap();
        let without_expiry = |text: &str| {
            text.lines().filter(|line| !line.starts_with("[\"PEXPIRE\"")).map(str::to_owned).collect::<Vec<_>>()
        };
        let again = redis_commands::dump(&mut connection).await.unwrap();
        for (found, wanted) in without_expiry(&again).iter().zip(without_expiry(&text(format, name))) {
            assert_eq!(*found, wanted, "{format:?} {name}");
        }
        assert_eq!(without_expiry(&again).len(), without_expiry(&text(format, name)).len(), "{format:?} {name}");
    }
}

/// Streams without entries are dumped with their last ids: one that never had an entry, and ones that lost all.
#[tokio::test]
async fn a_dump_of_redis_holds_streams_without_entries() {
    let made = [
        "XGROUP CREATE never group $ MKSTREAM",
        "XADD trimmed 5-1 a b",
        "XGROUP CREATE trimmed group $",
        "XTRIM trimmed MAXLEN 0",
        "XADD deleted 6-2 a b",
        "XDEL deleted 6-2",
    ];
    let lines: Vec<_> =
        made.iter().map(|line| serde_json::json!(line.split(' ').collect::<Vec<_>>()).to_string()).collect();
    let mut dumps = vec![lines.join("\n")];
    for _ in 0..2 {
        let server = eventbus_test::private_redis();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        redis_commands::restore(&mut connection, dumps.last().unwrap()).await.unwrap();
        dumps.push(redis_commands::dump(&mut connection).await.unwrap());
    }
    assert_eq!(dumps[1], dumps[2]);
    for last in ["never\",\"0-0\"", "trimmed\",\"5-1\"", "deleted\",\"6-2\""] {
        assert!(dumps[1].contains(&format!("[\"XSETID\",\"{last},")), "{}", dumps[1]);
    }
}

#[tokio::test]
async fn the_keys_of_redis_buses_are_read_and_written_on() {
    for format in FORMATS {
        the_keys_of_a_bus_are_read_and_written_on(format).await;
    }
}

/// The group goes on with its pending entries and their attempts, the dead letter is replayed, and the relay publishes
/// the new event only.
async fn the_keys_of_a_bus_are_read_and_written_on(format: StoredFormat) {
    let server = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    redis_commands::restore(&mut connection, &text(format, "redis-bus.jsonl")).await.unwrap();
    let both = BusAndStore::connect(server.url(), "today", SystemClock).await.unwrap();
    let wanted = expected(format, "redis-bus.json");
    assert_same(&both.contents().await.unwrap(), &wanted);
    let orders: usize = appends().unwrap()[..ORDERS].iter().map(|append| append.events.len()).sum();
    for (entry, event) in wanted["entries"].as_array().unwrap().iter().zip(&expected_events(format)[..orders]) {
        // the bus writes the payload again, between fields of its own
        let with_parsed_payload = |event: &Value| {
            let mut event = event.clone();
            event["payload"] = serde_json::from_str(event["payload"].as_str().unwrap()).unwrap();
            event
        };
        assert_eq!(with_parsed_payload(&entry[3]), with_parsed_payload(event), "the bus has what the store has");
    }

    let receipts = Receipts::default();
    receipts.mend();
    let app = both.start(&receipts).await.unwrap();
    until("the pending entries are handled", async || receipts.count() >= 3).await;
    app.settled().await.unwrap();
    assert_eq!(receipts.take(), ["receipt  1 later 2", "receipt  2 good 1", "tally  2 good 1"]);

    let letters = both.dead_letters().await.unwrap();
    assert!(both.bus.replay(&letters[0].id).await.unwrap());
    until("the dead letter is handled", async || receipts.count() > 0).await;
    app.settled().await.unwrap();
    assert_eq!(receipts.take(), ["receipt a 2 bad 1"], "the other handler had succeeded");

    let new = Append {
        stream: order("one", None).unwrap(),
        expected: ExpectedVersion::Exact(Version::FIRST),
        events: vec![event(5_000, "ItemAdded", 2, r#"{"sku":"new","count":1}"#)],
    };
    append(&both.store, new, 1).await;
    let head = both.store.head().await.unwrap();
    app.published(head).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(receipts.take(), ["receipt  2 new 1", "tally  2 new 1"]);
    let entries = both.bus.history().page(100).await.unwrap().len();
    assert_eq!(entries, orders + 2, "the replayed event and the new one were added");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}
