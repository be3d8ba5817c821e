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
    another, fresh_bus,
    seen::{event, settled, start},
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

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_held_than_the_configuration_says() {
    let config = eventbus_redis::RedisEventBusConfig { max_in_flight_bytes: 1 << 20, ..crate::common::config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let stream_of = |number: u64| eventbus::StreamId::parse("Order", &number.to_string()).unwrap();
    let large = |number: u64| {
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(1 << 18));
        let event = eventbus::NewEvent::new(Name::from_static("OrderCreated"), 1, payload);
        event.recorded_as(stream_of(number), eventbus::Version::FIRST, None)
    };
    for number in 0..100 {
        bus.publish(&[large(number)]).await.unwrap();
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
    println!("{most} of 256 KiB were pending at most");
    assert!(most <= 20, "{most} of 256 KiB were pending, and what was handled was not acknowledged yet");
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}
