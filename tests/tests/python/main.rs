//! A service written with the Python library eventsource-py on the same stream: each side handles the events that the
//! other publishes, and both write the same bytes.
//!
//! The scripts are in `tests/python`. The samples as the library writes them are beside the tests of the wire format,
//! which need no Python.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[macro_use]
mod environment;

mod crash;
mod dead_letters;
#[path = "../exported_spans/mod.rs"]
mod exported_spans;
mod fallible;
mod moving;
mod samples;
mod script;
mod sharing;
mod traced;
mod tree;

use std::{
    env, fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{Name, Position, port::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use samples::{Sample, samples};
use script::{Script, run};
use time::macros::datetime;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../eventbus-redis/src/wire/tests/python.jsonl");
const CAPTURE: &str = "GOLDEN=overwrite cargo test -p workspace-tests --test python -- what_python_publishes";

/// The names and values of an entry.
type Fields = Vec<(String, String)>;

fn config() -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: eventbus_test::unique_name("python"),
        batch_size: 10,
        block_ms: 100,
        ..RedisEventBusConfig::default()
    }
}

async fn bus() -> RedisEventBus {
    RedisEventBus::connect(config()).await.unwrap()
}

async fn command<T: redis::FromRedisValue>(bus: &RedisEventBus, name: &str, arguments: &[&str]) -> T {
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    redis::cmd(name).arg(arguments).query_async(&mut connection).await.unwrap()
}

/// Returns the entries of a stream.
async fn entries(bus: &RedisEventBus, stream: &str) -> Vec<Fields> {
    let entries: Vec<(String, Fields)> = command(bus, "XRANGE", &[stream, "-", "+"]).await;
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Returns the samples as the Python library writes them.
fn golden() -> Vec<Fields> {
    let lines = fs::read_to_string(GOLDEN).unwrap();
    let entries: Vec<_> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), samples().len(), "to capture them: {CAPTURE}");
    entries
}

/// Waits until `holds` returns `true`.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

/// Consumes until the group is idle, and returns the handled events as text, which distinguishes -0.0 from 0.0.
async fn handled_here(bus: &RedisEventBus) -> Vec<String> {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&handled);
    bus.subscribe(move |event: Envelope<Sample>| {
        note.lock().unwrap().push(format!("{:?} {:?}", event.metadata(), event.event()));
        async {}
    });
    let consumer = bus.start_consuming_in_background();
    settled(bus).await;
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
    handled.lock().unwrap().clone()
}

/// Waits until the group has handled all entries; failed ones count as unhandled.
async fn settled(bus: &RedisEventBus) {
    pending(bus, bus.default_group(), 0).await;
}

/// Waits until a group has read all entries, and `count` are pending.
async fn pending(bus: &RedisEventBus, group: &Name, count: u64) {
    until("all entries are read and the rest acknowledged", async || {
        bus.progress(group).await.is_ok_and(|progress| progress.unread == 0 && progress.pending == count)
    })
    .await;
}

fn expected() -> Vec<String> {
    samples().iter().map(|(record, event)| format!("{:?} {event:?}", record.metadata())).collect()
}

/// Returns the records of the samples.
fn records() -> Vec<RecordedEvent> {
    samples().into_iter().map(|(record, _)| record).collect()
}

with_each_release!(what_python_publishes_is_handled_here);

async fn what_python_publishes_is_handled_here(python: &Path) {
    let bus = bus().await;
    run(python, "publish.py", &bus).await;
    let entries = entries(&bus, &bus.config().stream_name()).await;
    if env::var_os("GOLDEN").is_some_and(|value| value == "overwrite") {
        let lines = entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n");
        fs::write(GOLDEN, lines.collect::<String>()).unwrap();
    }
    assert_eq!(entries, golden(), "to capture them anew: {CAPTURE}");
    assert_eq!(handled_here(&bus).await, expected());
}

with_each_release!(what_is_published_here_is_handled_by_python);

async fn what_is_published_here_is_handled_by_python(python: &Path) {
    let bus = bus().await;
    let mut records = records();
    let metadata = records[2]
        .metadata()
        .clone()
        .with_position(Some(Position::new(77)))
        .with_recorded_at(Some(datetime!(2026-11-20 06:57:25.5 UTC)))
        .with_original_recorded_at(Some(datetime!(2019-05-17 08:30 UTC)))
        .with_sealed_fields(true);
    records[2] = RecordedEvent::new(metadata, records[2].payload());
    bus.publish(&records).await.unwrap();
    let mut entries = entries(&bus, &bus.config().stream_name()).await;
    let ours: Vec<_> = entries[2].drain(7..).collect();
    let ours: Vec<_> = ours.iter().map(|(name, value)| (&**name, &**value)).collect();
    let expected = [
        ("position", "77"),
        ("recorded_at", "2026-11-20T06:57:25.500000+00:00"),
        ("original_recorded_at", "2019-05-17T08:30:00+00:00"),
        ("has_sealed_fields", "1"),
    ];
    assert_eq!(ours, expected, "the fields that are ours");
    assert_eq!(entries, golden());

    let mut script = Script::start(python, "consume.py", &bus, &[]);
    settled(&bus).await;
    script.end().await;
    let payloads: Vec<_> = golden().iter().map(|fields| fields[6].1.clone()).collect();
    assert_eq!(script.said("payload"), payloads, "what Python itself writes for what it has read");
    assert_eq!(script.said("is_sample"), [true; 3]);
}
