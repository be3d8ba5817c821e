//! Consumers of a group share waiting entries, with the default configuration.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which show the shares")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    another, config_on, fresh_bus,
    seen::{command, event, settled, start},
};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::RedisEventBus;

/// Counts the events that a bus handles, each of which takes `ms` milliseconds.
fn working(bus: &RedisEventBus, ms: u64) -> Arc<AtomicUsize> {
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handled);
    let work = Subscriber::new(Name::from_static("work"), EventFilter::All, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(())
        })
    });
    bus.add_subscriber(bus.default_group().clone(), work);
    handled
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_get_about_half_each_of_the_events_that_wait_for_them() {
    for ms in [1, 10] {
        let first = fresh_bus().await;
        let second = another(&first).await;
        let waiting: Vec<_> = (0..500).map(|number| event(&number.to_string())).collect();
        first.publish(&waiting).await.unwrap();
        let handled = [working(&first, ms), working(&second, ms)];
        start(&first).await;
        start(&second).await;
        assert_eq!(settled(&first).await, 0);
        let shares = handled.map(|handled| handled.load(Ordering::SeqCst));
        println!("{ms} ms each: {shares:?}");
        assert_eq!(shares.iter().sum::<usize>(), 500);
        assert!(shares.iter().all(|share| *share >= 150), "{ms} ms each: {shares:?}");
        for bus in [first, second] {
            bus.shutdown(Duration::from_secs(5)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_later_gets_its_share_of_what_waits() {
    let first = fresh_bus().await;
    let waiting: Vec<_> = (0..200).map(|number| event(&number.to_string())).collect();
    first.publish(&waiting).await.unwrap();
    let handled = working(&first, 10);
    start(&first).await;
    crate::common::until("the first is at work", async || handled.load(Ordering::SeqCst) >= 20).await;
    let second = another(&first).await;
    let of_second = working(&second, 10);
    start(&second).await;
    assert_eq!(settled(&first).await, 0);
    let share = of_second.load(Ordering::SeqCst);
    assert!(share >= 40, "{share} of 200");
    for bus in [first, second] {
        bus.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}

fn large(number: u64, bytes: usize) -> eventbus::RecordedEvent {
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    let event = eventbus::NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
    let stream = eventbus::StreamId::parse("Order", &number.to_string()).unwrap();
    event.recorded_as(stream, eventbus::Version::FIRST, None)
}

/// Fails if a read asks for all that may be in flight: on a slow line its reply would come too late.
#[tokio::test(flavor = "multi_thread")]
async fn one_read_asks_for_a_page_at_most() {
    let server = eventbus_test::private_redis_with(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"]);
    let config = eventbus_redis::RedisEventBusConfig { concurrency: 50, ..config_on(server.url()) };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let handled = working(&bus, 0);
    start(&bus).await;
    bus.publish(&[large(0, 1 << 16)]).await.unwrap();
    assert_eq!(settled(&bus).await, 0, "the size of an event is known");
    let _: () = command(&bus, "SLOWLOG", &["RESET"]).await;
    for number in 0..200 {
        bus.publish(&[large(number, 1 << 16)]).await.unwrap();
    }
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(handled.load(Ordering::SeqCst), 201);
    // number, time, duration, command, client, its name
    let log: Vec<(u64, u64, u64, Vec<String>, redis::Value, redis::Value)> =
        command(&bus, "SLOWLOG", &["GET", "10000"]).await;
    let reads = log.iter().filter(|(_, _, _, command, ..)| command[0] == "XREADGROUP");
    let counts: Vec<usize> = reads.map(|(_, _, _, command, ..)| command[5].parse().unwrap()).collect();
    // the read that waited for these events asked before the first was received
    let (before, counts) = counts.split_last().unwrap();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count <= 16), "{counts:?}, {before} before");
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_held_than_16_mib() {
    let bus = fresh_bus().await;
    for number in 0..60 {
        bus.publish(&[large(number, 1 << 20)]).await.unwrap();
    }
    let most = Arc::new(AtomicUsize::new(0));
    let work = {
        let (bus, most) = (bus.clone(), Arc::clone(&most));
        Subscriber::new(Name::from_static("work"), EventFilter::All, move |_| {
            let (bus, most) = (bus.clone(), Arc::clone(&most));
            Box::pin(async move {
                let pending = bus.progress(bus.default_group()).await?.pending;
                most.fetch_max(pending as usize, Ordering::SeqCst);
                Ok(())
            })
        })
    };
    bus.add_subscriber(bus.default_group().clone(), work);
    start(&bus).await;
    assert_eq!(settled(&bus).await, 0);
    let most = most.load(Ordering::SeqCst);
    println!("{most} of 1 MiB were pending at most");
    assert!(most <= 24, "{most} of 1 MiB were pending, and what was handled was not acknowledged yet");
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}
