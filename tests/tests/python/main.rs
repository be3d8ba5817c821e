//! A service written with the Python library eventsource-py on the same stream: each side handles what the other
//! publishes, and writes it in the same bytes.
//!
//! The scripts are in `tests/python`. What the library writes for the samples is kept beside the tests of the wire
//! format, which need no Python.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod environment;
mod samples;
mod script;

use std::{
    env, fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{Position, Version, port::EventBus, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use samples::{NoFields, Sample, samples};
use script::{Script, run};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../eventbus-redis/src/wire/tests/python.jsonl");
const CAPTURE: &str = "GOLDEN=overwrite cargo test -p workspace-tests --test python -- what_python_publishes";

/// The names and values of an entry.
type Fields = Vec<(String, String)>;

async fn bus() -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: test_servers::redis_url().into(),
        stream_prefix: test_servers::unique_name("python"),
        batch_size: 10,
        block_ms: 100,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

/// What is on a stream.
async fn entries(bus: &RedisEventBus, stream: &str) -> Vec<Fields> {
    let client = redis::Client::open(bus.config().redis_url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let range = redis::cmd("XRANGE").arg(stream).arg("-").arg("+").to_owned();
    let entries: Vec<(String, Fields)> = range.query_async(&mut connection).await.unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// What the Python library writes for the samples.
fn golden() -> Vec<Fields> {
    let lines = fs::read_to_string(GOLDEN).unwrap();
    let entries: Vec<_> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), samples().len(), "to capture them: {CAPTURE}");
    entries
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// Consumes until nothing is left to do, and returns what was handled, as text: which tells -0.0 from 0.0.
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

/// Waits until the group has handled everything; what failed counts as not handled.
async fn settled(bus: &RedisEventBus) {
    let group = bus.default_group();
    until("everything is acknowledged", async || {
        bus.progress(group).await.is_ok_and(|progress| progress.unread == 0 && progress.pending == 0)
    })
    .await;
}

fn expected() -> Vec<String> {
    samples().iter().map(|(record, event)| format!("{:?} {event:?}", record.metadata())).collect()
}

/// The records of the samples.
fn records() -> Vec<RecordedEvent> {
    samples().into_iter().map(|(record, _)| record).collect()
}

#[tokio::test]
async fn what_python_publishes_is_handled_here() {
    let Some(python) = environment::interpreter() else { return };
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

#[tokio::test]
async fn what_is_published_here_is_handled_by_python() {
    let Some(python) = environment::interpreter() else { return };
    let bus = bus().await;
    let mut records = records();
    let metadata = records[2].metadata().clone().with_position(Some(Position::new(77)));
    records[2] = RecordedEvent::new(metadata, records[2].payload());
    bus.publish(&records).await.unwrap();
    let mut entries = entries(&bus, &bus.config().stream_name()).await;
    assert_eq!(entries[2].pop().unwrap(), ("position".into(), "77".into()), "the one field that is ours");
    assert_eq!(entries, golden());

    let mut script = Script::start(python, "consume.py", &bus, &[]);
    settled(&bus).await;
    script.end().await;
    let payloads: Vec<_> = golden().iter().map(|fields| fields[6].1.clone()).collect();
    assert_eq!(script.said("payload"), payloads, "what Python itself writes for what it has read");
    assert_eq!(script.said("is_sample"), [true; 3]);
}

#[tokio::test]
async fn a_group_shares_its_events_between_both() {
    const SHARE: usize = 100;
    let Some(python) = environment::interpreter() else { return };
    let bus = bus().await;
    let here = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&here);
    bus.subscribe(move |event: Envelope<NoFields>| {
        note.lock().unwrap().push(event.metadata().event_id().to_string());
        async {}
    });
    let consumer = bus.start_consuming_in_background();
    let mut script = Script::start(python, "consume.py", &bus, &[]);
    until("Python is there", async || !script.said("consumer").is_empty()).await;
    let mut published = Vec::new();
    while published.len() < 500 || here.lock().unwrap().len() < SHARE || script.said("handled").len() < SHARE {
        assert!(published.len() < 100_000, "one of them gets nothing");
        let event = || RecordedEvent::of(&NoFields, AggregateId::new(), Version::FIRST).unwrap();
        let events: Vec<_> = std::iter::repeat_with(event).take(20).collect();
        published.extend(events.iter().map(|event| event.metadata().event_id().to_string()));
        bus.publish(&events).await.unwrap();
        let group = bus.default_group();
        until("they are taken", async || bus.progress(group).await.is_ok_and(|progress| progress.unread == 0)).await;
    }
    settled(&bus).await;
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
    script.end().await;
    let there = script.said("handled");
    let there = there.iter().map(|id| id.as_str().unwrap().to_owned());
    let mut handled: Vec<_> = here.lock().unwrap().iter().cloned().chain(there).collect();
    handled.sort_unstable();
    published.sort_unstable();
    assert_eq!(handled, published, "each once");
}

#[tokio::test]
async fn dead_letters_that_python_made_and_replayed_are_handled_here() {
    let Some(python) = environment::interpreter() else { return };
    let bus = bus().await;
    bus.publish(&records()).await.unwrap();
    let mut script = Script::start(python, "consume.py", &bus, &["4"]);
    settled(&bus).await;
    script.end().await;
    let letters = entries(&bus, &bus.config().dlq_stream_name()).await;
    assert_eq!(letters.iter().map(|letter| letter[..7].to_vec()).collect::<Vec<_>>(), golden());
    for letter in letters {
        let names: Vec<_> = letter[7..].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["original_message_id", "retry_count", "dlq_timestamp"]);
    }
    assert_eq!(run(python, "replay.py", &bus).await.said("replayed"), [true; 3]);
    assert_eq!(handled_here(&bus).await, expected());
}
