//! A handler's log line in the default format of `tracing-subscriber`, with the feature `opentelemetry`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{
    config_on, fresh_bus, log,
    proxy::{Network, Proxy},
    until,
};
use eventbus::{App, InMemoryEventStore, Never, port::EventBus as _, prelude::*};
use eventbus_redis::{
    RedisEventBus,
    streams::{RedisStreams, RedisStreamsConfig},
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct OrderCreated {
    items: u32,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

#[handler(manual, stream = "orders", retries = 0)]
async fn reserve_stock(event: &OrderCreated) -> Result<(), String> {
    tracing::info!(event.items, "stock is reserved");
    if event.items > 1 { Err("the shelf is empty".into()) } else { Ok(()) }
}

/// Returns the one line with this message about an aggregate, and the index of the message in it.
fn line(message: &str, aggregate: &str) -> (usize, String) {
    let lines = log::lines(&[message, aggregate]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines[0].clone();
    (line.find(message).unwrap(), line)
}

#[tokio::test]
async fn a_line_of_a_handler_says_early_what_it_says() {
    log::keep();
    let bus = fresh_bus().await;
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).consume("orders", bus);
    let app = app.handler::<reserve_stock>().start().await.unwrap();
    let orders = app.repository::<Order>();
    let (short, long) = ("4711".parse().unwrap(), AggregateId::new());
    orders.upsert(&short, |_| Ok::<_, Never>(OrderCreated { items: 1 })).await.unwrap();
    orders.upsert(&long, |_| Ok::<_, Never>(OrderCreated { items: 2 })).await.unwrap();
    until("the first is handled", async || log::lines(&["stock is reserved", "Order/4711"]).len() == 1).await;
    until("the second has failed", async || log::lines(&["handler failed", long.as_str()]).len() == 1).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();

    let of_long = format!("aggregate=Order/{long}");
    for (message, aggregate, first, whole) in [
        ("stock is reserved", "aggregate=Order/4711", 160, 200),
        ("stock is reserved", &of_long, 190, 230),
        ("handler failed", &of_long, 200, 330),
    ] {
        let (begins, line) = line(message, aggregate);
        let span = "handle{group=default handler=reserve_stock event=OrderCreated aggregate=Order/";
        assert_eq!(line.matches("group").count(), 1, "nothing is said twice: {line}");
        assert!(line.contains(span), "{line}");
        assert!(begins < first, "the message begins at column {begins}: {line}");
        assert!(line.len() < whole, "{} characters: {line}", line.len());
    }
}

#[tokio::test]
async fn of_a_server_that_is_away_it_is_told_once_that_it_is_and_once_that_it_is_back() {
    log::keep();
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let stream = bus.config().stream_name();
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).consume("orders", bus);
    let app = app.handler::<reserve_stock>().start().await.unwrap();
    server.stop();
    let orders = app.repository::<Order>();
    orders.upsert(&"away".parse().unwrap(), |_| Ok::<_, Never>(OrderCreated { items: 1 })).await.unwrap();
    let told = |text: &str| log::lines(&[text, &stream]).len();
    until("the relay is told of", async || told("relay cannot publish") > 0).await;
    server.start();
    until("it is handled", async || log::lines(&["stock is reserved", "Order/away"]).len() == 1).await;
    until("it is over", async || told("relay publishes again") > 0).await;
    app.shutdown(Duration::from_secs(5)).await.unwrap();
    for text in ["app runs", "relay cannot publish, trying again", "relay publishes again"] {
        assert_eq!(told(text), 1, "{text}: {:?}", log::lines(&["relay"]));
    }
    assert!(log::lines(&["relay publishes again", &stream, "lasted="]).len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_and_projections_over_plain_streams_say_once_that_a_server_is_away_and_once_that_it_is_back() {
    log::keep();
    let server = eventbus_test::private_redis();
    let (to_bus, to_streams) = (Proxy::before(server.port()).await, Proxy::before(server.port()).await);
    let bus = RedisEventBus::connect(config_on(&to_bus.url())).await.unwrap();
    let stream = bus.config().stream_name();
    let mut follow = bus.history().follow();
    let following = tokio::spawn(async move { follow.next().await.unwrap() });
    let config = RedisStreamsConfig { redis_url: to_streams.url(), ..RedisStreamsConfig::default() };
    let streams = RedisStreams::connect(config).await.unwrap();
    let projection = streams.projection("sees-outages", "events:orders");
    let running = tokio::spawn(async move { projection.run(std::future::pending()).await });
    let checkpoint = streams.projection("sees-outages", "events:orders");
    streams.publisher().publish("orders", "order.created", &serde_json::json!({})).await.unwrap();
    until("the projection is live", async || checkpoint.checkpoint().await.unwrap().is_some()).await;

    let before = [&to_bus, &to_streams].map(|proxy| proxy.connections());
    [&to_bus, &to_streams].into_iter().for_each(|proxy| proxy.set(Network::Cut));
    until("both have told", async || {
        !log::lines(&["following interrupted", &stream]).is_empty()
            && !log::lines(&["projection interrupted", "sees-outages"]).is_empty()
    })
    .await;
    until("both have tried often", async || {
        to_bus.connections() >= before[0] + 6 && to_streams.connections() >= before[1] + 6
    })
    .await;
    [&to_bus, &to_streams].into_iter().for_each(|proxy| proxy.set(Network::Works));
    until("the projection reads", async || {
        let _ = streams.publisher().publish("orders", "order.created", &serde_json::json!({})).await;
        !log::lines(&["projection reads again", "sees-outages"]).is_empty()
    })
    .await;
    until("it is published", async || bus.publish(&[common::seen::event("1")]).await.is_ok()).await;
    following.await.unwrap();
    running.abort();
    for (text, about) in [
        ("following interrupted, trying again", &*stream),
        ("following goes on", &stream),
        ("projection interrupted, trying again", "sees-outages"),
        ("projection reads again", "sees-outages"),
    ] {
        let lines = log::lines(&[text, about]);
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert_eq!(lines[0].contains("lasted="), !text.ends_with("trying again"), "{lines:?}");
    }
}

/// Fails unless the bus warns once about each server on a remote machine, by whichever call a program connects.
#[tokio::test]
async fn a_server_on_another_machine_without_tls_is_warned_of_once() {
    log::keep();
    let plain = |url: &str| eventbus_redis::RedisEventBusConfig { redis_url: url.into(), ..Default::default() };
    for _ in 0..2 {
        RedisEventBus::lazy(plain("redis://:secret@plain.example:6390")).unwrap();
    }
    RedisEventBus::lazy(plain("redis://:secret@localhost:6391")).unwrap();
    RedisEventBus::lazy(plain("rediss://:secret@tls.example:6392")).unwrap();
    let warned = log::lines(&["the connection to Redis has no TLS"]);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("plain.example:6390") && !warned[0].contains("secret"), "{warned:?}");
}
