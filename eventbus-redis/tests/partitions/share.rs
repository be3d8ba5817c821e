//! The owners of partitions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use eventbus::port::EventBus;
use eventbus_redis::{Recovery, RedisEventBus, RedisEventBusConfig};

use crate::{
    common::{
        actor::{Actor, connect},
        log,
        seen::{command, event, start},
        until,
    },
    journal::{Account, Journal, Load, account},
    process::{LONG, SHORT, config, until_finished, until_within},
};

/// The number of partitions of each owner.
async fn owners(bus: &RedisEventBus) -> BTreeMap<String, usize> {
    let (now, _): (u64, u64) = command(bus, "TIME", &[]).await;
    let mut owners = BTreeMap::new();
    for number in 0..bus.config().partitions {
        let key = format!("{{{}:{number}}}:lease:{}", bus.config().stream_name(), bus.default_group());
        let lease: BTreeMap<String, String> = command(bus, "HGETALL", &[&key]).await;
        if lease.get("expires_at").is_some_and(|until| until.parse::<u64>().unwrap() / 1_000 >= now) {
            *owners.entry(lease["owner"].clone()).or_default() += 1;
        }
    }
    owners
}

async fn until_shared(bus: &RedisEventBus, consumers: usize) -> Duration {
    let (began, partitions) = (Instant::now(), bus.config().partitions as usize);
    until_within("the partitions are shared evenly", 3 * LONG, async || {
        let owners = owners(bus).await;
        let fair = partitions / consumers..=partitions.div_ceil(consumers);
        let is_fair = owners.values().all(|owned| fair.contains(owned));
        owners.len() == consumers && is_fair && owners.values().sum::<usize>() == partitions
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_come_and_go_share_the_partitions_evenly_and_soon() {
    let config = config(eventbus_test::redis_url(), &eventbus_test::unique_name("share"), 8, LONG);
    let journal = Journal::new();
    let mut consumers = Vec::new();
    let mut load = Load::over(50);
    for count in 1..=5 {
        let bus = RedisEventBus::connect(config.clone()).await.unwrap();
        journal.join(&bus, Duration::from_millis(1), false);
        let task = start(&bus).await;
        bus.publish(&load.batch(500)).await.unwrap();
        consumers.push((bus, task));
        println!("{count} consumers: shared after {:?}", until_shared(&consumers[0].0, count).await);
    }
    for count in (1..5).rev() {
        let (bus, task) = consumers.remove(0);
        bus.publish(&load.batch(500)).await.unwrap();
        bus.stop_consuming().await;
        task.await.unwrap();
        println!("{count} consumers: shared after {:?}", until_shared(&consumers[0].0, count).await);
    }
    let bus = &consumers[0].0;
    until_finished(bus, Duration::from_secs(60)).await;
    bus.stop_consuming().await;
    assert_eq!(account(&journal.lines().await, &load.published), Account::default());
    assert_eq!(bus.stream_info().await.active_consumers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stops_keeps_only_the_partition_in_which_a_handler_still_runs() {
    let config = config(eventbus_test::redis_url(), &eventbus_test::unique_name("share"), 8, LONG);
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    start(&bus).await;
    bus.publish(&[event("a")]).await.unwrap();
    until("its handler runs", async || waiting.begun().len() == 1).await;
    start(&other).await;
    until_shared(&other, 2).await;
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.stop_consuming().await }
    });
    until_within("the other one has the rest", LONG, async || {
        let mut owned: Vec<usize> = owners(&other).await.into_values().collect();
        owned.sort_unstable();
        owned == [1, 7]
    })
    .await;
    waiting.let_go(1);
    stopping.await.unwrap();
    until_shared(&other, 1).await;
    until_finished(&other, LONG).await;
    assert_eq!((waiting.done(), willing.done()), (vec!["a".to_owned()], Vec::new()));
    other.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumers_of_one_bus_share_them_and_each_aggregate_keeps_its_order() {
    let config = config(eventbus_test::redis_url(), &eventbus_test::unique_name("several"), 8, LONG);
    let bus = RedisEventBus::connect(RedisEventBusConfig { consumers: 3, ..config }).await.unwrap();
    let (journal, mut load) = (Journal::new(), Load::over(50));
    journal.join(&bus, Duration::from_millis(1), true);
    start(&bus).await;
    until_shared(&bus, 3).await;
    bus.publish(&load.batch(1_000)).await.unwrap();
    until_finished(&bus, Duration::from_secs(60)).await;
    assert_eq!(account(&journal.lines().await, &load.published), Account::default());
    bus.stop_consuming().await;
    assert_eq!(bus.stream_info().await.active_consumers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_everything_finds_the_consumers_at_work_again() {
    let server = eventbus_test::private_redis();
    let config = config(server.url(), &eventbus_test::unique_name("flush"), 8, SHORT);
    let (journal, mut consumers) = (Journal::new(), Vec::new());
    for _ in 0..3 {
        let bus = RedisEventBus::connect(config.clone()).await.unwrap();
        journal.join(&bus, Duration::from_millis(1), false);
        start(&bus).await;
        consumers.push(bus);
    }
    let bus = &consumers[0];
    let mut load = Load::over(50);
    for _ in 0..5 {
        let batch = load.batch(500);
        bus.publish(&batch).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _: String = command(bus, "FLUSHALL", &[]).await;
        // the publisher, which keeps its events, publishes the unfinished ones again
        let before = Instant::now();
        bus.publish(&batch).await.unwrap();
        until_within("all was handled", Duration::from_secs(60), async || {
            account(&journal.lines().await, &load.published).lost == 0
        })
        .await;
        println!("all of 500 handled {:?} after the flush", before.elapsed());
        until_finished(bus, Duration::from_secs(60)).await;
    }
    until_shared(bus, 3).await;
    let account = account(&journal.lines().await, &load.published);
    assert_eq!(account, Account { repeated: account.repeated, ..Account::default() });
}

/// Consumers are what frees memory. Fails if one cannot start, loses its leases, or cannot release them.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_share_the_partitions_of_a_server_without_memory() {
    let server = eventbus_test::private_redis();
    let config = config(server.url(), &eventbus_test::unique_name("full"), 4, SHORT);
    let (journal, mut load) = (Journal::new(), Load::over(50));
    let first = RedisEventBus::connect(config.clone()).await.unwrap();
    journal.join(&first, Duration::from_millis(1), true);
    start(&first).await;
    first.publish(&load.batch(200)).await.unwrap();
    until_finished(&first, Duration::from_secs(60)).await;
    let _: String = command(&first, "CONFIG", &["SET", "maxmemory", "1", "maxmemory-policy", "noeviction"]).await;

    let second = RedisEventBus::connect(config).await.unwrap();
    journal.join(&second, Duration::from_millis(1), true);
    let task = start(&second).await;
    until_shared(&first, 2).await;
    let leases = async |field: &str| -> Vec<String> {
        let (stream, group) = (first.config().stream_name(), first.default_group());
        let mut values = Vec::new();
        for number in 0..4 {
            values.push(command(&first, "HGET", &[&format!("{{{stream}:{number}}}:lease:{group}"), field]).await);
        }
        values
    };
    let epochs = leases("epoch").await;
    // for longer than a lease lasts, and than a member counts as alive
    for _ in 0..12 {
        let before = leases("renewed_at").await;
        until("all leases are renewed", async || {
            let now = leases("renewed_at").await;
            before.iter().zip(&now).all(|(before, now)| before != now)
        })
        .await;
    }
    assert_eq!(leases("epoch").await, epochs, "no lease ended");
    second.stop_consuming().await;
    task.await.unwrap();
    until_shared(&first, 1).await;

    let _: String = command(&first, "CONFIG", &["SET", "maxmemory", "0"]).await;
    first.publish(&load.batch(200)).await.unwrap();
    until_finished(&first, Duration::from_secs(60)).await;
    first.stop_consuming().await;
    assert_eq!(account(&journal.lines().await, &load.published), Account::default());
}

/// A dead consumer counts as alive for two leases, and its leases end after one.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_dead_consumer_are_taken_over_when_its_leases_end() {
    let lease = Duration::from_secs(600);
    let config = config(eventbus_test::redis_url(), &eventbus_test::unique_name("dead"), 4, lease);
    let bus = RedisEventBus::connect(config).await.unwrap();
    let journal = Journal::new();
    journal.join(&bus, Duration::from_millis(1), true);
    let (now, _): (u64, u64) = command(&bus, "TIME", &[]).await;
    let stream = bus.config().stream_name();
    let generation: String = command(&bus, "HGET", &[&format!("{stream}:layout"), "generation"]).await;
    let member = serde_json::json!({
        "at": (now - 700) * 1_000, "live_ms": 1_200_000, "event_types": "*", "instance": "dead", "layout": generation,
    });
    let members = format!("{{{stream}}}:members:{}", bus.default_group());
    let _: u64 = command(&bus, "HSET", &[&members, "dead", &member.to_string()]).await;
    start(&bus).await;
    until_shared(&bus, 1).await;
    bus.stop_consuming().await;
}

/// A consumer dies and leaves its leases and its member; then the server's clock is set back by an hour.
#[tokio::test(flavor = "multi_thread")]
async fn leases_and_members_of_the_future_keep_nobody_from_a_partition() {
    let config = config(eventbus_test::redis_url(), &eventbus_test::unique_name("future"), 4, LONG);
    let bus = RedisEventBus::connect(config).await.unwrap();
    let (journal, mut load) = (Journal::new(), Load::over(50));
    journal.join(&bus, Duration::from_millis(1), true);
    bus.publish(&load.batch(100)).await.unwrap();
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let (now, _): (u64, u64) = command(&bus, "TIME", &[]).await;
    let renewed = (now + 3_600) * 1_000;
    let until = (renewed + 3_000).to_string();
    for number in 0..4 {
        let part = format!("{stream}:{number}");
        let _: redis::Value =
            command(&bus, "XREADGROUP", &["GROUP", &group, "owner", "COUNT", "5", "STREAMS", &part, ">"]).await;
        let lease = format!("{{{part}}}:lease:{group}");
        let fields = ["owner", "dead", "epoch", "5", "expires_at", &until, "renewed_at", &renewed.to_string()];
        let _: u64 = command(&bus, "HSET", &[&[&*lease], &fields[..]].concat()).await;
    }
    let generation: String = command(&bus, "HGET", &[&format!("{stream}:layout"), "generation"]).await;
    let member = serde_json::json!({
        "at": renewed, "live_ms": 6_000, "event_types": "*", "instance": "dead", "layout": generation,
    });
    let _: u64 = command(&bus, "HSET", &[&format!("{{{stream}}}:members:{group}"), "dead", &member.to_string()]).await;

    let recovered = bus
        .recover_pending_messages(Recovery { min_idle_time_ms: Some(0), batch_size: Some(1), ..Recovery::default() })
        .await
        .unwrap();
    assert_eq!(recovered.claimed, 1, "the lease of the partition is free: {recovered:?}");
    start(&bus).await;
    until_shared(&bus, 1).await;
    until_finished(&bus, Duration::from_secs(60)).await;
    bus.stop_consuming().await;
    assert_eq!(account(&journal.lines().await, &load.published).lost, 0);
}

/// Fails if the record of a process that was killed counts as that of a live one, or if only the first is logged.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_the_same_name_is_logged_if_it_lives() {
    log::keep();
    let config = RedisEventBusConfig {
        consumer_name: Some(eventbus_test::unique_name("twin")),
        ..config(eventbus_test::redis_url(), &eventbus_test::unique_name("share"), 4, 3 * SHORT)
    };
    let name = config.consumer_name.clone().unwrap();
    let lines = || log::lines(&["another consumer of this name is alive", &name]).len();
    let bus = RedisEventBus::connect(config.clone()).await.unwrap();
    let members = format!("{{{}}}:members:{}", bus.config().stream_name(), bus.default_group());
    let member = async || -> serde_json::Value {
        let member: String = command(&bus, "HGET", &[&members, &name]).await;
        serde_json::from_str(&member).unwrap()
    };
    let heartbeats = async |count: usize| {
        for _ in 0..count {
            let before = member().await;
            until("a heartbeat is sent", async || member().await["at"] != before["at"]).await;
        }
    };
    let (seconds, micros): (u64, u64) = command(&bus, "TIME", &[]).await;
    let killed = serde_json::json!({
        "at": seconds * 1_000 + micros / 1_000, "live_ms": 60_000, "event_types": "*", "instance": "killed",
        "layout": "0",
    });
    let _: u64 = command(&bus, "HSET", &[&members, &name, &killed.to_string()]).await;
    Journal::new().join(&bus, Duration::from_millis(1), false);
    start(&bus).await;
    heartbeats(3).await;
    assert_eq!(lines(), 0);

    for times in 1..=2 {
        let twin = RedisEventBus::connect(config.clone()).await.unwrap();
        Journal::new().join(&twin, Duration::from_millis(1), false);
        start(&twin).await;
        until("both log it", async || lines() == 2 * times).await;
        heartbeats(6).await;
        assert_eq!(lines(), 2 * times, "each logs it once");
        twin.stop_consuming().await;
        // for longer than the twin counts as alive: six heartbeats
        heartbeats(9).await;
    }
    bus.stop_consuming().await;
}
