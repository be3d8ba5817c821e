//! Consumers while the server or the group is away, and when they stop.

use std::time::{Duration, Instant};

use crate::common::{
    another, config_on, fresh_bus,
    seen::{Seen, command, publish, settled, start},
    until,
};
use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[tokio::test(flavor = "multi_thread")]
async fn consuming_survives_a_restart_of_the_server() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    assert_eq!(settled(&bus).await, 0);
    server.stop();
    assert!(bus.is_consuming());
    server.start();
    publish(&bus, "after").await;
    until("the second arrived", async || seen.all() == ["before", "after"]).await;
    assert_eq!(settled(&bus).await, 0);
    assert!(bus.stats().reconnections >= 1, "{:?}", bus.stats());
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_survives_a_server_that_lost_everything() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    server.start_empty();
    publish(&bus, "after").await;
    until("the second arrived", async || seen.all() == ["before", "after"]).await;
    assert_eq!(settled(&bus).await, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_group_that_was_deleted_is_made_anew() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "one").await;
    assert_eq!(settled(&bus).await, 0);
    let stream = bus.config().stream_name();
    let _: i64 = command(&bus, "DEL", &[&stream]).await;
    publish(&bus, "two").await;
    until("what came after the deletion arrived", async || seen.all() == ["one", "two"]).await;
    assert_eq!(settled(&bus).await, 0);
    let _: i64 = command(&bus, "XGROUP", &["DESTROY", &stream, bus.default_group()]).await;
    publish(&bus, "three").await;
    until("the third arrived", async || seen.all().last().is_some_and(|last| last == "three")).await;
    assert_eq!(settled(&bus).await, 0);
    // a group that is made anew begins at its low-water mark, which may have been saved since
    let again = &seen.all()[2..];
    assert!(again == ["two", "three"] || again == ["three"], "{again:?}");
    assert_eq!(bus.stats().reconnections, 0, "no connection was lost");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_does_for_everything_and_heals_too() {
    let mut server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { single_connection_client: true, ..config_on(server.url()) };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    let clients: String = command(&bus, "CLIENT", &["LIST", "TYPE", "NORMAL"]).await;
    assert_eq!(clients.lines().count(), 2, "the bus's and this one:\n{clients}");
    assert_eq!(settled(&bus).await, 0);
    server.stop();
    server.start();
    // the consumer must notice by itself: no other task uses its connection now
    let publisher = another(&bus).await;
    publish(&publisher, "after").await;
    until("the second arrived", async || seen.all() == ["before", "after"]).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_consumer_stops_at_once_and_loses_nothing() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    let mut stopping = Duration::ZERO;
    for round in 1..=20_usize {
        let consumer = start(&bus).await;
        publish(&bus, &round.to_string()).await;
        if round % 2 == 0 {
            // now the consumer waits for entries
            until("the event arrived", async || seen.all().len() == round).await;
            assert_eq!(settled(&bus).await, 0);
        }
        let began = Instant::now();
        bus.stop_consuming().await;
        consumer.await.unwrap();
        stopping += began.elapsed();
        if round % 2 == 1 {
            let consumer = start(&bus).await;
            until("the event arrived", async || seen.all().len() == round).await;
            bus.stop_consuming().await;
            consumer.await.unwrap();
        }
    }
    assert_eq!(seen.all(), (1..=20).map(|n| n.to_string()).collect::<Vec<_>>());
    // half of the stops interrupt a read that would wait for a second
    assert!(stopping < Duration::from_secs(5), "the stops took {stopping:?} together");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_a_server_that_hangs() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let consumer = start(&bus).await;
    publish(&bus, "one").await;
    assert_eq!(settled(&bus).await, 0);
    server.pause();
    let began = Instant::now();
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    server.resume();
    start(&bus).await;
    publish(&bus, "two").await;
    until("the second arrived", async || seen.all().contains(&"two".to_owned())).await;
    bus.stop_consuming().await;
}
