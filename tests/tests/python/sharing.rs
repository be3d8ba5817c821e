//! One group with members on both sides.

use std::{collections::BTreeSet, path::Path};

use eventbus::{
    EventContext, Name, NewEvent, StreamId, Version,
    event::Attributes,
    port::{DeadLetterFilter, DeadLetters, EventBus},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use serde_json::Value;

use super::{
    bus, command, config,
    fallible::{Fallible, id, stop},
    samples::NoFields,
    script::Script,
    settled, until,
};

/// Number of failures of events that must become dead letters.
const ALWAYS: usize = 1_000;

/// Returns an event of an aggregate of its own.
pub(crate) fn event(failures: usize) -> RecordedEvent {
    let attributes = Attributes::parse(&format!(r#"{{"failures":{failures}}}"#)).unwrap();
    let context = EventContext::default().with_attributes(attributes);
    let stream = StreamId::new(Name::from_static("Sample"), AggregateId::new());
    NewEvent::from_event(&NoFields).unwrap().with_context(context).recorded_as(stream, Version::FIRST, None)
}

pub(crate) fn ids(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(id).collect()
}

/// Returns the texts that Python printed.
pub(crate) fn texts(values: &[Value]) -> Vec<String> {
    values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

pub(crate) fn sorted(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_unstable();
    texts
}

/// Publishes events until both sides have handled their share, at least 500. With `failing`, each tenth event fails
/// once on its first side, and each further tenth always.
async fn publish_to_both(bus: &RedisEventBus, here: &Fallible, there: &Script, failing: bool) -> Vec<RecordedEvent> {
    const SHARE: usize = 100;
    let mut published = Vec::new();
    while published.len() < 500 || here.handled().len() < SHARE || there.said("handled").len() < SHARE {
        assert!(published.len() < 100_000, "one side receives no events");
        let failures = |number| match number % 10 {
            3 if failing => 1,
            7 if failing => ALWAYS,
            _ => 0,
        };
        let events: Vec<_> = (0..20).map(|number| event(failures(number))).collect();
        bus.publish(&events).await.unwrap();
        published.extend(events);
        let group = bus.default_group();
        until("all entries are read", async || bus.progress(group).await.is_ok_and(|progress| progress.unread == 0))
            .await;
    }
    published
}

with_each_release!(a_group_shares_its_events_between_both);

async fn a_group_shares_its_events_between_both(python: &Path) {
    let bus = bus().await;
    let here = Fallible::on(&bus, 0, None);
    let consumer = bus.start_consuming_in_background();
    let mut there = Script::start(python, "consume.py", &bus, &[]);
    until("Python is there", async || !there.said("consumer").is_empty()).await;
    let published = publish_to_both(&bus, &here, &there, false).await;
    settled(&bus).await;
    stop(&bus, consumer).await;
    there.end().await;
    let handled = here.handled().into_iter().chain(texts(&there.said("handled")));
    assert_eq!(sorted(handled), sorted(ids(&published)), "each once");
}

with_each_release!(a_group_shares_what_fails_between_both);

/// An event that fails here waits longer for its retry than Python's idle time before it reclaims an entry.
async fn a_group_shares_what_fails_between_both(python: &Path) {
    let config = RedisEventBusConfig {
        pending_idle_ms: 1_500,
        retry_delay_ms: 5_000,
        max_retries: Some(1),
        max_in_flight: Some(10_000),
        ..config()
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let here = Fallible::on(&bus, 0, None);
    let consumer = bus.start_consuming_in_background();
    let options = ["--recover", "--idle-ms", "1500", "--max-retries", "1"];
    let mut there = Script::start(python, "consume.py", &bus, &options);
    until("Python is there", async || !there.said("consumer").is_empty()).await;
    let published = publish_to_both(&bus, &here, &there, true).await;
    settled(&bus).await;
    stop(&bus, consumer).await;
    there.end().await;

    let lives = |event: &&RecordedEvent| event.metadata().attributes().get("failures") != Some(ALWAYS.into());
    let (living, dying): (Vec<_>, Vec<_>) = published.iter().cloned().partition(|event| lives(&event));
    let handled = here.handled().into_iter().chain(texts(&there.said("handled")));
    assert_eq!(sorted(handled), sorted(ids(&living)), "each once");
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, usize::MAX).await.unwrap().letters;
    let dead = dead_letters.iter().map(|dead_letter| id(dead_letter.record.as_ref().unwrap()));
    assert_eq!(sorted(dead), sorted(ids(&dying)), "each once");
    assert!(dead_letters.iter().all(|dead_letter| dead_letter.retry_count == Some(1)));

    let failed_here: BTreeSet<_> = here.failed().into_iter().collect();
    let failed_there: BTreeSet<_> = texts(&there.said("failed")).into_iter().collect();
    let both = failed_here.intersection(&failed_there).count() as u64;
    assert!(!failed_here.is_empty() && !failed_there.is_empty());
    assert!(both <= bus.stats().messages_recovered, "Python reclaims no entry that waits here: {both}");
}

/// Returns the number of deliveries that the server has counted for the one pending entry.
async fn deliveries(bus: &RedisEventBus) -> u64 {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().as_str());
    let pending: Vec<(String, String, u64, u64)> = command(bus, "XPENDING", &[&stream, group, "-", "+", "10"]).await;
    pending[0].3
}

with_each_release!(python_counts_the_tries_that_were_made_here);

async fn python_counts_the_tries_that_were_made_here(python: &Path) {
    let config = RedisEventBusConfig { retry_delay_ms: 20, pending_idle_ms: 60, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let here = Fallible::on(&bus, 3, Some(0)); // the fourth attempt hangs
    let consumer = bus.start_consuming_in_background();
    let event = RecordedEvent::from_event(&NoFields, AggregateId::new(), Version::FIRST).unwrap();
    bus.publish(std::slice::from_ref(&event)).await.unwrap();
    for attempts in 1..=3 {
        until("it failed", async || here.failed().len() == attempts).await;
        until("it is counted", async || deliveries(&bus).await == attempts as u64).await;
    }
    consumer.abort();
    drop(consumer.await);

    let mut there = Script::start(python, "consume.py", &bus, &["--failures", "4", "--recover"]);
    settled(&bus).await;
    there.end().await;
    assert_eq!(there.said("failed"), [id(&event)], "the fourth try, and the last");
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let retries: Vec<_> = dead_letters.iter().map(|dead_letter| dead_letter.retry_count).collect();
    assert_eq!(retries, [Some(3)], "as if one side alone had made the attempts");
}
