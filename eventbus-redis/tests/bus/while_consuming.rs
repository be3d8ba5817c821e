//! A consumer's periodic work: it trims the stream, and logs slow handlers.

use std::time::Duration;

use crate::common::{
    config, log,
    seen::{Seen, command, event, settled, start},
    until,
};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{GroupStart, RedisEventBus, RedisEventBusConfig};

const LIMIT: u64 = 50;

/// A bus that consumes and keeps its stream short.
async fn short_stream() -> RedisEventBus {
    let bus = RedisEventBus::connect(RedisEventBusConfig { trim_max_length: Some(LIMIT), ..config() }).await.unwrap();
    Seen::default().join(&bus);
    bus
}

async fn length(bus: &RedisEventBus) -> u64 {
    command(bus, "XLEN", &[&bus.config().stream_name()]).await
}

async fn publish(bus: &RedisEventBus, count: usize) {
    let events: Vec<_> = (0..count).map(|n| event(&n.to_string())).collect();
    bus.publish(&events).await.unwrap();
}

async fn until_short(bus: &RedisEventBus) {
    until("the stream is short", async || length(bus).await == LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_under_load_is_kept_short() {
    let bus = short_stream().await;
    start(&bus).await;
    let mut longest = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            publish(&bus, 500).await;
        }
        until_short(&bus).await;
        longest = longest.max(length(&bus).await);
    }
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(longest, LIMIT, "30,000 were published");
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_group_holds_the_stream_and_is_named_once_until_it_catches_up() {
    log::keep();
    let bus = short_stream().await;
    let stream = bus.config().stream_name();
    let config = RedisEventBusConfig { consumer_group: "slow".into(), trim_max_length: None, ..bus.config().clone() };
    bus.create_group(&Name::from_static("slow"), GroupStart::Beginning).await.unwrap();
    let slow = RedisEventBus::connect(config).await.unwrap();
    start(&bus).await;
    publish(&bus, 1_000).await;
    let named = || log::lines(&["blocks trimming", &stream, "slow"]).len();
    until("the slow group is named", async || named() > 0).await;
    publish(&bus, 1_000).await;
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(length(&bus).await, 2_000, "nothing is taken from it");
    let seen = Seen::default();
    seen.join(&slow);
    start(&slow).await;
    until_short(&bus).await;
    assert_eq!(settled(&slow).await, 0);
    assert_eq!((seen.all().len(), named()), (2_000, 1));
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
    slow.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_retired_holds_nothing_any_more() {
    log::keep();
    let bus = short_stream().await;
    let stream = bus.config().stream_name();
    let old = Name::from_static("old-reports");
    bus.create_group(&old, GroupStart::Beginning).await.unwrap();
    start(&bus).await;
    publish(&bus, 1_000).await;
    let is_named = async || !log::lines(&["blocks trimming", &stream, "old-reports"]).is_empty();
    until("the old group is named", is_named).await;
    assert_eq!(length(&bus).await, 1_000);
    bus.retire_group(&old).await.unwrap();
    until_short(&bus).await;
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_handler_is_logged_with_its_name_and_time() {
    log::keep();
    let bus = RedisEventBus::connect(config()).await.unwrap();
    let name = |name: &str| Name::new("handler", format!("{name}-{}", bus.config().stream_prefix)).unwrap();
    let (slow, quick) = (name("slow"), name("quick"));
    for (name, takes) in [(&slow, Duration::from_millis(1_001)), (&quick, Duration::ZERO)] {
        let handler = Subscriber::new(name.clone(), EventFilter::All, move |_| {
            Box::pin(async move {
                tokio::time::sleep(takes).await; // the log reports this time
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), handler);
    }
    start(&bus).await;
    publish(&bus, 1).await;
    assert_eq!(settled(&bus).await, 0);
    let told = log::lines(&["handler is slow", &slow]);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains(" event=OrderCreated") && told[0].contains(" took="), "{told:?}");
    assert!(log::lines(&["handler is slow", &quick]).is_empty());
    bus.shutdown(Duration::from_secs(5)).await.unwrap();
}
