//! Recovery by hand: the consumers of pending entries, and entries that end every process.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::common::{
    actor::never,
    config_on, fresh_bus,
    proxy::{Network, Proxy},
    seen::{Gate, Seen, command, event},
    until,
};
use eventbus::{
    Name,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters, EventBus, Subscriber},
};
use eventbus_redis::{Recovery, RedisEventBus};
use tokio::task::JoinHandle;

/// A bus with events that a dead consumer has read, and their ids in the stream.
async fn with_left(ids: &[&str]) -> (RedisEventBus, Vec<String>) {
    let bus = fresh_bus().await;
    let ids = leave(&bus, ids).await;
    (bus, ids)
}

/// Publishes events that a dead consumer has read; returns their ids in the stream.
async fn leave(bus: &RedisEventBus, ids: &[&str]) -> Vec<String> {
    let events: Vec<_> = ids.iter().copied().map(event).collect();
    let ids = bus.publish(&events).await.unwrap();
    let read = ["GROUP", bus.default_group(), "dead", "STREAMS", &bus.config().stream_name(), ">"];
    let _: redis::Value = command(bus, "XREADGROUP", &read).await;
    ids.iter().map(ToString::to_string).collect()
}

/// Recovers in the background.
fn recover(bus: &RedisEventBus) -> JoinHandle<eventbus_redis::RecoveryStats> {
    let bus = bus.clone();
    let all = Recovery { min_idle_time_ms: Some(0), ..Recovery::default() };
    tokio::spawn(async move { bus.recover_pending_messages(all).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_recovery_survives_becomes_a_dead_letter() {
    let (bus, _) = with_left(&["deadly"]).await;
    let (seen, gate) = (Seen::default(), Gate::default());
    seen.join(&bus);
    gate.join(&bus);
    for times in 1..=5 {
        let recovering = recover(&bus);
        until("it is begun", async || seen.all().len() == times).await;
        recovering.abort(); // as if the process had died
        drop(recovering.await);
    }
    let stats = recover(&bus).await.unwrap();
    assert_eq!((stats.claimed, stats.dlq, stats.failed), (1, 1, 0));
    assert_eq!(seen.all().len(), 5);
    let letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert_eq!(letters[0].error.as_deref(), Some("the process ended 5 times while this event alone was handled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_when_the_handlers_have_ended_counts_as_no_end_of_the_process() {
    let server = eventbus_test::private_redis();
    let proxy = Proxy::before(server.port()).await;
    let bus = RedisEventBus::connect(config_on(&proxy.url())).await.unwrap();
    leave(&bus, &["one"]).await;
    let (seen, gate) = (Seen::default(), Gate::default());
    seen.join(&bus);
    gate.join(&bus);
    let recovering = recover(&bus);
    until("it is begun", async || seen.all() == ["one"]).await;
    proxy.set(Network::Cut);
    let before = proxy.connections();
    gate.open();
    // the first attempt makes one connection
    until("the write is repeated", async || proxy.connections() >= before + 2).await;
    proxy.set(Network::Works);
    let stats = recovering.await.unwrap();
    assert_eq!((stats.claimed, stats.reprocessed, seen.all().len()), (1, 1, 1));
    let pending: Vec<redis::Value> =
        command(&bus, "XPENDING", &[&bus.config().stream_name(), bus.default_group(), "-", "+", "9"]).await;
    assert!(pending.is_empty(), "{pending:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_another_took_meanwhile_is_left_to_it() {
    let (bus, ids) = with_left(&["one", "two", "three"]).await;
    let (seen, gate) = (Seen::default(), Gate::default());
    seen.join(&bus);
    gate.join(&bus);
    let recovering = recover(&bus);
    until("the first is begun", async || seen.all() == ["one"]).await;
    let claim = [&bus.config().stream_name(), bus.default_group().as_str(), "another", "0", &ids[1]];
    let _: redis::Value = command(&bus, "XCLAIM", &claim).await;
    gate.open();
    let stats = tokio::time::timeout(Duration::from_secs(20), recovering).await.unwrap().unwrap();
    assert_eq!(seen.all(), ["one", "three"]);
    assert_eq!((stats.claimed, stats.reprocessed, stats.failed, stats.dlq), (3, 2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn recoveries_of_one_bus_follow_each_other() {
    let (bus, _) = with_left(&["one"]).await;
    let (seen, gate) = (Seen::default(), Gate::default());
    seen.join(&bus);
    gate.join(&bus);
    let first = recover(&bus);
    until("it is begun", async || seen.all() == ["one"]).await;
    let second = recover(&bus);
    never("it is begun twice", Duration::from_millis(300), async || seen.all().len() > 1).await;
    gate.open();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.reprocessed, second.checked, second.claimed), (1, 0, 0));
    assert_eq!(seen.all(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_does_not_overtake_a_failed_one_of_its_aggregate() {
    let (bus, _) = with_left(&["a", "a", "b"]).await;
    let seen = Seen::default();
    seen.join(&bus);
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, {
        let first = AtomicBool::new(true);
        move |_| {
            let fails = first.swap(false, Ordering::SeqCst);
            Box::pin(async move { if fails { Err("told to".into()) } else { Ok(()) } })
        }
    });
    bus.add_subscriber(bus.default_group().clone(), fails);
    let stats = recover(&bus).await.unwrap();
    assert_eq!(seen.all(), ["a", "b"], "the second of the aggregate waits");
    assert_eq!((stats.claimed, stats.reprocessed, stats.failed), (3, 1, 2));
    let stats = recover(&bus).await.unwrap();
    assert_eq!(seen.all(), ["a", "b", "a"], "the handler that had succeeded did not run again");
    assert_eq!((stats.claimed, stats.reprocessed, stats.failed), (2, 2, 0));
}
