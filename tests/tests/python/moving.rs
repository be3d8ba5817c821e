//! The chapter on moving: its Python code runs on the library's store, its statement writes the events into lines, and a
//! service in Python gets no event that was imported.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    EventId, ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId,
    port::{AppendEvents as _, ReadFeed as _},
    prelude::*,
    relay,
};
use eventstore_postgres::{
    PgConnection,
    sqlx::{self, AssertSqlSafe, Connection as _},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{bus, environment, samples::NoFields, script::Script, sharing::texts, until};

with_each_release!(the_chapters_statement_writes_what_python_has_stored);

async fn the_chapters_statement_writes_what_python_has_stored(python: &Path) {
    let database = eventbus_test::postgres();
    let chapter = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guide/src/moving/eventsource-py.md");
    let script = environment::scripts().join("store.py");
    let ran = Command::new(python)
        .arg(script)
        .args([database.url().as_ref(), chapter.as_os_str()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output();
    let ran = ran.await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let text = std::fs::read_to_string(chapter).unwrap();
    let statement = text.split("```sql\n").nth(1).unwrap().split(";\n```").next().unwrap().to_owned();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let lines = sqlx::query_scalar::<_, Value>(AssertSqlSafe(statement)).fetch_all(&mut connection).await.unwrap();
    let mut seen = Vec::new();
    for mut line in lines {
        for made in ["event_id", "occurred_at", "recorded_at", "correlation_id"] {
            assert!(line[made].take().is_string(), "{made}: {line}");
        }
        seen.push(line);
    }
    let expected = |version: u64, cents: u64| {
        json!({
            "event_id": null, "aggregate_type": "Account", "aggregate_id": "00000000-0000-0000-0000-000000000064",
            "tenant": null, "version": version, "event_type": "Deposited", "schema_version": 1, "occurred_at": null,
            "recorded_at": null, "actor_id": null, "correlation_id": null, "causation_id": null, "attributes": {},
            "fields": { "cents": cents },
        })
    };
    assert_eq!(seen, [expected(1, 1), expected(2, 120)]);
}

#[derive(Clone, Default)]
struct Noted(Arc<Mutex<Vec<EventId>>>);

#[handler(manual, group = "moved")]
async fn note(_event: &NoFields, meta: &Metadata, State(noted): State<Noted>) {
    noted.0.lock().unwrap().push(meta.event_id());
}

/// Appends events as an import does, or a command; returns their ids.
async fn append(store: &InMemoryEventStore, count: usize) -> Vec<EventId> {
    let stream = StreamId::new(Name::from_static("Sample"), AggregateId::new());
    let events = (0..count).map(|_| NewEvent::from_event(&NoFields).unwrap()).collect();
    let events = store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
    events.iter().map(|event| event.metadata().event_id()).collect()
}

with_each_release!(python_gets_no_imported_event_if_the_relay_begins_after_them);

async fn python_gets_no_imported_event_if_the_relay_begins_after_them(python: &Path) {
    let (bus, store, noted) = (bus().await, InMemoryEventStore::new(), Noted::default());
    let mut there = Script::start(python, "consume.py", &bus, &["--group", "mail"]);
    until("Python is there", async || !there.said("consumer").is_empty()).await;

    let imported = append(&store, 5).await;
    relay::begin_after(&store, &bus, store.head().await.unwrap()).await.unwrap();
    let app = App::builder().store(store.clone()).bus(bus.clone()).state(noted.clone()).handler::<note>();
    let app = app.start().await.unwrap();
    let saved = append(&store, 3).await;
    until("Python has handled the last event", async || there.said("handled").len() >= saved.len()).await;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    there.end().await;
    let saved_texts: Vec<_> = saved.iter().map(ToString::to_string).collect();
    assert_eq!(texts(&there.said("handled")), saved_texts);
    assert_eq!(*noted.0.lock().unwrap(), [imported, saved].concat(), "a new group has no other way to know them");
}
