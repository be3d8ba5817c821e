//! The number of connections of a bus.

use std::time::Duration;

use crate::common::{
    config_on,
    seen::{Seen, command, publish, settled, start},
    until,
};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// The number of clients of the server, except for the one that asks.
async fn connections(bus: &RedisEventBus) -> usize {
    let clients: String = command(bus, "CLIENT", &["LIST"]).await;
    clients.lines().filter(|client| !client.contains("cmd=client|list")).count()
}

async fn assert_connections(bus: &RedisEventBus, expected: usize) {
    until(&format!("there are {expected} connections"), async || connections(bus).await == expected).await;
    // work adds no connection
    publish(bus, "one more").await;
    assert_eq!(settled(bus).await, 0);
    assert_eq!(connections(bus).await, expected);
}

fn join(bus: &RedisEventBus, group: &'static str) {
    let subscriber = Subscriber::new(Name::from_static("nothing"), EventFilter::All, |_| Box::pin(async { Ok(()) }));
    bus.add_subscriber(Name::from_static(group), subscriber);
}

/// The connections of a bus that consumes for two groups, and of two readers that follow.
async fn count(single_connection_client: bool, [alone, consuming, following]: [usize; 3]) {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { single_connection_client, ..config_on(server.url()) };
    let bus = RedisEventBus::connect(config).await.unwrap();
    Seen::default().join(&bus);
    join(&bus, "mail");
    until("the bus is alone", async || connections(&bus).await == alone).await;
    let consumer = start(&bus).await;
    assert_connections(&bus, consuming).await;

    let (mut one, mut two) = (bus.history().follow(), bus.history().follow());
    assert!(one.next().await.is_ok() && two.next().await.is_ok());
    assert_connections(&bus, following).await;
    drop((one, two));
    assert_connections(&bus, consuming).await;

    bus.shutdown(Duration::from_secs(20)).await.unwrap();
    consumer.await.unwrap();
    until("all are closed", async || connections(&bus).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_holds_one_connection_and_one_for_each_group_it_consumes_for_and_for_each_that_follows() {
    count(false, [1, 3, 5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_connection_client_holds_one_in_all_besides_those_that_follow() {
    count(true, [1, 1, 3]).await;
}
