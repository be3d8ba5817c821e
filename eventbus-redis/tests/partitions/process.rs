//! Consumers in processes of their own: second runs of this test binary, with their role in environment variables.

use std::{
    env,
    time::{Duration, Instant},
};

use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;

use crate::journal::Journal;

/// Short, for tests in which consumers die.
pub(crate) const SHORT: Duration = Duration::from_millis(500);
/// Long enough for a busy machine, for tests in which consumers must keep their leases.
pub(crate) const LONG: Duration = Duration::from_secs(3);

pub(crate) fn config(url: &str, prefix: &str, partitions: u32, lease: Duration) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: url.into(),
        stream_prefix: prefix.into(),
        batch_size: 20,
        max_in_flight: Some(60),
        concurrency: 4,
        block_ms: 100,
        retry_delay_ms: 10,
        partitions,
        partition_lease_ms: lease.as_millis() as u64,
        ..RedisEventBusConfig::default()
    }
}

/// The role of the process; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_that_is_a_process() {
    let Ok(prefix) = env::var("PARTITIONS_PREFIX") else {
        return;
    };
    let var = |name| env::var(name).unwrap();
    let fails = env::var_os("PARTITIONS_FAILS").is_some();
    let lease = if fails { SHORT } else { LONG };
    let bus = RedisEventBus::connect(config(&var("PARTITIONS_URL"), &prefix, 8, lease)).await.unwrap();
    let journal = Journal::on(&var("PARTITIONS_URL"), prefix).await;
    let work = Duration::from_millis(var("PARTITIONS_WORK_MS").parse().unwrap());
    journal.join(&bus, work, fails);
    let stopping = bus.clone();
    tokio::spawn(async move {
        tokio::task::spawn_blocking(Actor::hear).await.unwrap();
        while !stopping.is_consuming() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stopping.stop_consuming().await;
    });
    bus.start_consuming().await.unwrap();
}

/// A process that consumes.
pub(crate) fn spawn(url: &str, prefix: &str, fails: bool) -> Actor {
    working(url, prefix, fails, 1)
}

/// The time of its handler, in milliseconds.
pub(crate) fn working(url: &str, prefix: &str, fails: bool, work_ms: u64) -> Actor {
    let work_ms = work_ms.to_string();
    let mut variables = vec![("PARTITIONS_PREFIX", prefix), ("PARTITIONS_URL", url), ("PARTITIONS_WORK_MS", &work_ms)];
    if fails {
        variables.push(("PARTITIONS_FAILS", "1"));
    }
    Actor::play("process::the_consumer_that_is_a_process", &variables)
}

/// Asks the process to stop, and waits until it has ended.
pub(crate) fn stop(mut process: Actor) {
    process.resume();
    process.wait();
}

/// Waits until the condition holds, for longer than usual.
pub(crate) async fn until_within(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a group has no unfinished entry.
pub(crate) async fn until_finished(bus: &RedisEventBus, within: Duration) {
    let group = bus.default_group();
    until_within("the group has finished everything", within, async || {
        bus.progress(group).await.is_ok_and(|progress| progress.unread + progress.pending == 0)
    })
    .await;
}
