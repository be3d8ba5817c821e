//! A bus that an app connects, also later if the server is away at the start.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{config, config_on, log, said, seen::event, until};
use eventbus::{
    App, InMemoryEventStore, Never, StartError,
    app::{AppBuilder, StartMistake},
    health::HealthThresholds,
    port::{EventBus, PublishError},
    prelude::*,
    relay::RelayError,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[handler(manual, stream = "accounts")]
async fn count(_event: &Opened, State(opened): State<Arc<AtomicU32>>) {
    opened.fetch_add(1, Ordering::SeqCst);
}

fn builder(config: RedisEventBusConfig, opened: &Arc<AtomicU32>) -> AppBuilder {
    let bus = RedisEventBus::lazy(config).unwrap();
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus.clone()).consume("accounts", bus);
    app.state(Arc::clone(opened)).handler::<count>().wait_timeout(Duration::from_millis(100))
}

async fn start(config: RedisEventBusConfig, opened: &Arc<AtomicU32>) -> Result<App, StartError> {
    builder(config, opened).start().await
}

#[tokio::test]
async fn an_app_starts_and_saves_while_the_server_is_away_and_goes_on_when_it_comes() {
    log::keep();
    let mut redis = eventbus_test::private_redis();
    let config = config_on(redis.url());
    let stream = config.stream_name();
    let told = |text: &str| log::lines(&[text, &stream]).len();
    redis.stop();
    let opened = Arc::default();
    let app = start(config, &opened).await.unwrap();
    let account = "1".parse().unwrap();
    let saved = app.repository::<Account>().upsert(&account, |_| Ok::<_, Never>(Opened {})).await.unwrap();
    let unpublished = app.published(saved.position).await.unwrap_err().to_string();
    assert!(unpublished.contains("the bus is away: cannot connect to Redis"), "{unpublished}");
    let health = app.health().await;
    let alerts = health.alerts(&HealthThresholds::default());
    assert!(health.is_ready() && !health.connected, "{health:?}");
    assert!(alerts.iter().any(|alert| alert.contains("not connected: cannot connect to Redis")), "{alerts:?}");
    let (away, connected) = ("bus is away, the app starts without it", "bus is connected");
    assert_eq!((told(away), told(connected)), (1, 0));
    redis.start();
    until("the event is handled", async || opened.load(Ordering::SeqCst) == 1).await;
    let health = app.health().await;
    assert!(health.connected && health.consuming, "{health:?}");
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!((told(away), told(connected)), (1, 1), "{:?}", log::lines(&[&stream]));
}

#[handler(manual, stream = "accounts")]
async fn count_too(event: &Opened, opened: State<Arc<AtomicU32>>) {
    count(event, opened).await;
}

#[tokio::test]
async fn handlers_of_a_consumed_bus_share_its_consumer_group_unless_they_name_one() {
    let opened = Arc::default();
    let config = RedisEventBusConfig { consumer_group: "billing".into(), ..config() };
    let app = builder(config, &opened).handler::<count_too>().start().await.unwrap();
    let account = "1".parse().unwrap();
    app.repository::<Account>().upsert(&account, |_| Ok::<_, Never>(Opened {})).await.unwrap();
    until("both have handled it", async || opened.load(Ordering::SeqCst) == 2).await;
    let groups = app.bus().stream_info().await.consumer_groups;
    assert_eq!(groups.iter().map(|group| &*group.name).collect::<Vec<_>>(), ["billing"]);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_is_an_error_of_the_start() {
    let opened = Arc::default();
    let redis = eventbus_test::private_redis_with(&[]);
    let refuses: RedisEventBusConfig = {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let set = redis::cmd("ACL").arg(&["SETUSER", "app", "on", ">right", "~*", "+@all"]).to_owned();
        let _: redis::Value = set.query_async(&mut connection).await.unwrap();
        config_on(&redis.url().replace("redis://", "redis://app:wrong@"))
    };
    let error = said(&start(refuses, &opened).await.unwrap_err());
    assert!(error.contains("refuses") && !error.contains("wrong@"), "{error}");
}

/// Fails if the handlers of an app with the wrong store take the events of a different application.
#[tokio::test]
async fn an_app_with_a_store_of_which_the_stream_has_no_event_does_not_start_beside_those_of_another() {
    let (config, opened) = (config(), Arc::default());
    let app = start(config.clone(), &opened).await.unwrap();
    let account = "1".parse().unwrap();
    app.repository::<Account>().upsert(&account, |_| Ok::<_, Never>(Opened {})).await.unwrap();
    until("the event is handled", async || opened.load(Ordering::SeqCst) == 1).await;
    let own = app.store().store_id().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();

    let observer = RedisEventBus::connect(config.clone()).await.unwrap();
    observer.publish(&[event("1")]).await.unwrap();
    let consumers = observer.group_consumers(observer.default_group()).await.unwrap().len();
    let wrong = Arc::default();
    let error = start(config.clone(), &wrong).await.unwrap_err();
    let [StartMistake::OtherStore(RelayError::OtherStore { other, .. })] = error.mistakes() else { panic!("{error}") };
    assert_eq!(*other, own);
    assert!(error.to_string().contains("check the address of the store"), "{error}");
    let joined = observer.group_consumers(observer.default_group()).await.unwrap().len();
    assert_eq!((joined, wrong.load(Ordering::SeqCst)), (consumers, 0), "no consumer has joined the group");

    // on purpose
    for builder in [builder(config.clone(), &opened).without_relay(), builder(config, &opened).share_stream()] {
        builder.start().await.unwrap().shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_connected() {
    let bus = RedisEventBus::lazy(config()).unwrap();
    let refused = bus.publish(&[event("1")]).await.unwrap_err();
    assert!(matches!(refused, PublishError::Unavailable { .. }), "{refused:?}");
    assert!(said(&refused).contains("the bus is not connected yet"), "{refused:?}");
    bus.ensure_connected().await.unwrap();
    bus.publish(&[event("1")]).await.unwrap();
}

#[test]
fn mistakes_are_told_at_once() {
    let mistaken = RedisEventBusConfig { batch_size: 0, ..config() };
    assert_eq!(RedisEventBus::lazy(mistaken).unwrap_err().mistakes[0].field, "batch_size");
}
