//! The cost of an event on the server, commands and bytes, and in this process, allocations.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    config_on,
    cost::{Cost, counters},
    until,
};
use eventbus::{AggregateId, EventBusExt as _, Name, NewEvent, RecordedEvent, StreamId, Version, port::EventBus as _};
use eventbus_redis::RedisEventBus;
use eventbus_test::{internal::redis_connection, private_redis};

fn recorded(count: u64) -> Vec<RecordedEvent> {
    let event = || NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
    let stream = || StreamId::new(Name::from_static("Account"), AggregateId::new());
    (0..count).map(|_| event().recorded_as(stream(), Version::FIRST, None)).collect()
}

#[tokio::test]
async fn a_published_event_is_one_command_and_a_consumed_one_is_sent_once() {
    const EVENTS: u64 = 10_000;
    let server = private_redis();
    let mut admin = redis_connection(server.url()).await;
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let before = counters(&mut admin).await;
    for event in recorded(200) {
        bus.publish(&[event]).await.unwrap();
    }
    let singles = counters(&mut admin).await;
    // the request for the counters is a command, too
    singles.assert_at_most(before, Cost { commands: 201, bytes_received: 200 * 711, bytes_sent: 6_000 });
    for _ in 0..EVENTS / 100 {
        bus.publish(&recorded(100)).await.unwrap();
    }
    let batches = counters(&mut admin).await;
    let bound = Cost { commands: EVENTS / 100 * 102 + 1, bytes_received: EVENTS * 711, bytes_sent: EVENTS * 33 };
    batches.assert_at_most(singles, bound);

    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let _subscription = bus.subscribe(move |_: RecordedEvent| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let consumer = bus.clone();
    let consuming = tokio::spawn(async move { consumer.start_consuming().await });
    until("all events are handled", async || handled.load(Ordering::Relaxed) == 200 + EVENTS).await;
    bus.shutdown(Duration::from_secs(60)).await.unwrap();
    consuming.await.unwrap().unwrap();
    // how many acknowledgements go together depends on the load of the machine
    let bound = Cost { commands: EVENTS * 12 / 10, bytes_received: EVENTS * 100, bytes_sent: EVENTS * 710 };
    counters(&mut admin).await.assert_at_most(batches, bound);
}

#[test]
fn an_event_is_published_and_consumed_with_few_allocations() {
    const EVENTS: u64 = 2_000;
    // allocations of other threads are not counted
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = private_redis();
    let bus = runtime.block_on(RedisEventBus::connect(config_on(server.url()))).unwrap();
    let events = recorded(100);
    let publish = || runtime.block_on(bus.publish(&events)).unwrap();
    publish();
    let of_publish = allocation_counter::measure(|| (1..EVENTS / 100).for_each(|_| drop(publish()))).count_total;

    let handled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&handled);
    let _subscription = bus.subscribe(move |_: RecordedEvent| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    let consume = async {
        let consumer = bus.clone();
        let consuming = tokio::spawn(async move { consumer.start_consuming().await });
        until("all events are handled", async || handled.load(Ordering::Relaxed) == EVENTS).await;
        bus.shutdown(Duration::from_secs(60)).await.unwrap();
        consuming.await.unwrap().unwrap();
    };
    let of_consume = allocation_counter::measure(|| runtime.block_on(consume)).count_total;
    let each = [of_publish as f64 / (EVENTS - 100) as f64, of_consume as f64 / EVENTS as f64];
    // 10.21 and 32.28 when the bounds were written, of events with one field
    assert!(each[0] <= 11.3 && each[1] <= 35.5, "{each:?} allocations for each event");
}
