//! Changing the number of partitions.

use std::{sync::Arc, time::Duration};

use eventbus::{
    Name,
    port::{EventBus, PublishError},
};
use eventbus_redis::{GroupStart, RedisConnectError, RedisEventBus, RedisEventBusConfig, RepartitionError};
use tokio::sync::Mutex;

use crate::{
    common::{
        actor::{Actor, connect},
        config,
        seen::{event, start},
        until,
    },
    journal::{Account, Journal, Load, account},
    process::{self, until_finished},
};

fn with(partitions: u32, config: &RedisEventBusConfig) -> RedisEventBusConfig {
    RedisEventBusConfig { partitions, consumer_name: None, ..config.clone() }
}

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_number_changes_under_load_and_nothing_is_lost_repeated_or_out_of_order() {
    let config = process::config(eventbus_test::redis_url(), &eventbus_test::unique_name("change"), 4, process::LONG);
    let journal = Journal::new();
    let mut bus = RedisEventBus::connect(config.clone()).await.unwrap();
    let load = Arc::new(Mutex::new(Load::over(100)));
    let publishing = tokio::spawn(publish(config.clone(), Arc::clone(&load)));
    for partitions in [8, 3, 1, 5, 2] {
        let mut consumers = Vec::new();
        for _ in 0..2 {
            let consumer = RedisEventBus::connect(with(bus.config().partitions, &config)).await.unwrap();
            journal.join(&consumer, Duration::from_micros(500), false);
            start(&consumer).await;
            consumers.push(consumer);
        }
        let ended = journal.ended().await;
        until("some are handled", async || journal.ended().await > ended + 300).await;
        if bus.config().partitions == 1 {
            // there the operator has to stop the publishers
            PAUSED.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        bus.repartition(partitions, SOON).await.unwrap();
        PAUSED.store(false, std::sync::atomic::Ordering::SeqCst);
        bus = RedisEventBus::connect(with(partitions, &config)).await.unwrap();
        for consumer in consumers {
            // the consumer itself notices that its partitions are gone
            consumer.stop_consuming().await;
        }
    }
    {
        let _between_two_batches = load.lock().await;
        publishing.abort();
        drop(publishing.await);
    }
    journal.join(&bus, Duration::ZERO, false);
    start(&bus).await;
    until_finished(&bus, SOON).await;
    let account = account(&journal.lines().await, &load.lock().await.published);
    println!("{} handled", journal.ended().await);
    assert_eq!(account, Account::default());
}

static PAUSED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Publishes for ever, with the current number of partitions.
async fn publish(config: RedisEventBusConfig, load: Arc<Mutex<Load>>) {
    let mut bus = RedisEventBus::connect(config.clone()).await.unwrap();
    loop {
        while PAUSED.load(std::sync::atomic::Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut load = load.lock().await;
        let batch = load.batch(20);
        loop {
            match bus.publish(&batch).await {
                Ok(_) => break,
                Err(PublishError::Refused { .. }) => bus = reconnect(&config).await,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(load);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn reconnect(config: &RedisEventBusConfig) -> RedisEventBus {
    let mut partitions = config.partitions;
    loop {
        match RedisEventBus::connect(with(partitions, config)).await {
            Ok(bus) => return bus,
            Err(RedisConnectError::PartitionCountMismatch(layout)) => partitions = layout.recorded,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_done_holds_the_change_and_is_named() {
    let bus = connect(&RedisEventBusConfig { partitions: 2, ..config() }).await;
    let group = Name::from_static("slow");
    bus.create_group(&group, GroupStart::Beginning).await.unwrap();
    bus.publish(&["a", "b", "c", "d"].map(event)).await.unwrap();
    let error = bus.repartition(4, Duration::from_millis(200)).await.unwrap_err();
    let RepartitionError::Unfinished { waits, .. } = &error else { panic!("{error:?}") };
    assert_eq!(waits.iter().map(|wait| wait.unread.unwrap()).sum::<u64>(), 4, "{error}");
    assert!(waits.iter().all(|wait| wait.group == "slow" && wait.stream.starts_with(&bus.config().stream_name())));
    assert!(error.to_string().contains("group `slow`"), "{error}");
    // the refusal changed no data, and publishing works again
    bus.publish(&[event("e")]).await.unwrap();
    bus.retire_group(&group).await.unwrap();
    bus.repartition(4, SOON).await.unwrap();
    let after = bus.publish(&[event("f")]).await;
    let Err(PublishError::Refused { source, .. }) = after else { panic!("{after:?}") };
    assert!(source.to_string().contains("has 4 partition(s) and not 2"), "{source}");
    let changed = connect(&with(4, bus.config())).await;
    assert_eq!(changed.publish(&[event("f")]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_waits_while_groups_finish() {
    let config = RedisEventBusConfig { partitions: 2, block_ms: 50, ..config() };
    let (bus, actor) = (connect(&config).await, Actor::waiting());
    actor.join(&bus);
    start(&bus).await;
    bus.publish(&[event("a")]).await.unwrap();
    until("it is being handled", async || actor.begun().len() == 1).await;
    let changing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.repartition(3, SOON).await }
    });
    until("nobody publishes", async || bus.publish(&[]).await.is_ok() && refused(&bus).await).await;
    actor.let_go(100);
    changing.await.unwrap().unwrap();
    assert!(matches!(bus.publish(&[event("b")]).await, Err(PublishError::Refused { .. })));
}

async fn refused(bus: &RedisEventBus) -> bool {
    match bus.publish(&[event("a")]).await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_partitions_gets_them_and_its_groups_go_on() {
    let config = config();
    let (plain, actor) = (connect(&config).await, Actor::willing());
    actor.join(&plain);
    start(&plain).await;
    plain.publish(&["a", "b"].map(event)).await.unwrap();
    until_finished(&plain, SOON).await;
    plain.repartition(4, SOON).await.unwrap();
    assert!(matches!(plain.publish(&[event("c")]).await, Err(PublishError::Refused { .. })));
    assert!(matches!(
        RedisEventBus::connect(with(1, &config)).await,
        Err(RedisConnectError::PartitionCountMismatch(layout)) if layout.recorded == 4
    ));
    let bus = connect(&with(4, &config)).await;
    bus.publish(&["a", "b", "c"].map(event)).await.unwrap();
    let next = Actor::willing();
    next.join(&bus);
    start(&bus).await;
    until_finished(&bus, SOON).await;
    assert_eq!((actor.done(), next.done()), (vec!["a".into(), "b".into()], ["a", "b", "c"].map(Into::into).into()));
    bus.repartition(1, SOON).await.unwrap();
    plain.stop_consuming().await;
    let bus = connect(&with(1, &config)).await;
    bus.publish(&[event("d")]).await.unwrap();
    let last = Actor::willing();
    last.join(&bus);
    start(&bus).await;
    until_finished(&bus, SOON).await;
    assert_eq!(last.done(), ["d"]);
}
