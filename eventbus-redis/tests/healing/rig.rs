//! A consumer on a server of its own, and the time that it takes to resume after a fault.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::PrivateRedis;
use futures_util::future::join_all;

use crate::common::{
    config_on,
    proxy::Proxy,
    seen::{Seen, publish, settled, start},
    until,
};

/// Time limit for handling the next event once the server is back.
const PROMISE: Duration = Duration::from_secs(2);
/// Number of times that a fault may be repeated: a machine may be too busy once.
const CHANCES: usize = 3;
/// The shortest duration of a fault: long enough for the consumer's delays to have grown.
const OUTAGE: Duration = Duration::from_millis(2_000);

pub(crate) struct Rig {
    pub(crate) server: PrivateRedis,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) bus: RedisEventBus,
    /// Connects to the server directly, and consumes no events.
    publisher: RedisEventBus,
    pub(crate) seen: Seen,
    published: usize,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::on(eventbus_test::private_redis(), RedisEventBusConfig::default()).await
    }

    /// A consumer whose connections go through the proxy.
    pub(crate) async fn behind_a_proxy(config: RedisEventBusConfig) -> Self {
        let server = eventbus_test::private_redis();
        let proxy = Proxy::before(server.port()).await;
        let url = proxy.url();
        Self::through(server, Some(proxy), url, config).await
    }

    pub(crate) async fn on(server: PrivateRedis, config: RedisEventBusConfig) -> Self {
        let url = server.url().to_owned();
        Self::through(server, None, url, config).await
    }

    pub(crate) async fn through(
        server: PrivateRedis,
        proxy: Option<Proxy>,
        redis_url: String,
        config: RedisEventBusConfig,
    ) -> Self {
        let RedisEventBusConfig { stream_prefix, redis_url: direct, .. } = config_on(server.url());
        let config = RedisEventBusConfig { redis_url, stream_prefix, ..config };
        let publisher = RedisEventBusConfig {
            redis_url: if proxy.is_some() { direct } else { config.redis_url.clone() },
            consumer_group: "publisher".into(),
            ..config.clone()
        };
        let (bus, publisher) =
            (RedisEventBus::connect(config).await.unwrap(), RedisEventBus::connect(publisher).await.unwrap());
        let seen = Seen::default();
        seen.join(&bus);
        start(&bus).await;
        let mut rig = Self { server, proxy, bus, publisher, seen, published: 0 };
        rig.next().await;
        rig
    }

    /// Publishes, repeats until that succeeds, and returns when the event is handled.
    pub(crate) async fn next(&mut self) {
        let id = self.publish().await;
        until("the next event is handled", async || self.seen.all().contains(&id)).await;
    }

    pub(crate) async fn publish(&mut self) -> String {
        self.published += 1;
        let id = self.published.to_string();
        publish(&self.publisher, &id).await;
        id
    }

    /// Checks that the next event is handled soon after a fault, which ends when the server is back.
    pub(crate) async fn heals(&mut self, what: &str, fault: impl AsyncFn(&Self)) {
        let mut took = Vec::new();
        for _ in 0..CHANCES {
            fault(self).await;
            let back = Instant::now();
            self.next().await;
            took.push(back.elapsed());
            if back.elapsed() < PROMISE {
                eprintln!("{what}: back after {took:?}");
                return;
            }
        }
        panic!("{what}: back only after {took:?}");
    }

    /// Every event published with a number was handled once, and is acknowledged.
    pub(crate) async fn lost_and_repeated_nothing(&self) {
        assert_eq!(settled(&self.bus).await, 0);
        let mut seen: Vec<usize> = self.seen.all().iter().filter_map(|id| id.parse().ok()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=self.published).collect::<Vec<_>>());
    }

    /// The number of unacknowledged entries on the server.
    pub(crate) async fn pending(&self) -> u64 {
        let (count, ..): (u64, redis::Value, redis::Value, redis::Value) =
            self.command("XPENDING", &[&self.bus.config().stream_name(), self.bus.default_group()]).await;
        count
    }

    pub(crate) fn reconnections(&self) -> u64 {
        self.bus.stats().reconnections
    }

    /// The number of commands that the server has refused since its start, as it does while it loads its data; commands
    /// that ask for its state do not count.
    pub(crate) async fn refused(&self) -> u64 {
        let stats: String = self.command("INFO", &["commandstats"]).await;
        let refused = |line: &str| line.trim().split_once("rejected_calls=")?.1.split(',').next()?.parse::<u64>().ok();
        let asks = |line: &str| line.starts_with("cmdstat_ping") || line.starts_with("cmdstat_client");
        stats.lines().filter(|line| !asks(line)).filter_map(refused).sum()
    }

    pub(crate) async fn command<T: redis::FromRedisValue>(&self, name: &str, arguments: &[&str]) -> T {
        let mut connection = eventbus_test::internal::redis_connection(self.server.url()).await;
        redis::cmd(name).arg(arguments).query_async(&mut connection).await.unwrap()
    }
}

pub(crate) fn single() -> RedisEventBusConfig {
    RedisEventBusConfig { single_connection_client: true, ..RedisEventBusConfig::default() }
}

/// Returns the configurations that every fault is checked with: with several connections, and with one.
pub(crate) fn configs() -> [RedisEventBusConfig; 2] {
    [RedisEventBusConfig::default(), single()]
}

/// Checks all cases at the same time: each waits for its fault to end most of the time.
pub(crate) async fn for_each<T>(cases: impl IntoIterator<Item = T>, check: impl AsyncFn(T)) {
    join_all(cases.into_iter().map(|case| check(case))).await;
}

/// Runs the check with each of [`configs`], on a server of its own.
pub(crate) async fn for_each_rig(check: impl AsyncFn(Rig)) {
    for_each(configs(), async |config| check(Rig::on(eventbus_test::private_redis(), config).await).await).await;
}

/// Adds a handler that fails on one aggregate, and counts its runs.
pub(crate) fn failing(bus: &RedisEventBus, id: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, move |delivery| {
        let fails = delivery.metadata().aggregate_id().as_str() == id;
        counted.fetch_add(usize::from(fails), Relaxed);
        Box::pin(async move { if fails { Err("told to".into()) } else { Ok(()) } })
    });
    bus.add_subscriber(bus.default_group().clone(), fail);
    count
}

/// Waits during a fault, so that it ends at any moment between two attempts of the consumer.
pub(crate) async fn outage() {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let more = NUMBER.fetch_add(1, Relaxed) * 370 % 1_000;
    tokio::time::sleep(OUTAGE + Duration::from_millis(more as u64)).await;
}
