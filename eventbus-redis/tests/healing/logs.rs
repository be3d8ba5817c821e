//! The log during all these faults: few lines.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use eventbus_redis::RedisEventBusConfig;
use lines::Lines;
use tracing::subscriber::DefaultGuard;

use crate::{
    common::{
        proxy::Network,
        seen::{publish, settled},
        until,
    },
    rig::{Rig, failing, outage, single},
};

#[path = "../../../eventbus/tests/lines/mod.rs"]
mod lines;

impl Lines {
    /// Captures the log until the guard is dropped, without the lines about handlers.
    fn capture_but_handlers(&self) -> DefaultGuard {
        self.capture("info,eventbus::handler=off,eventbus::delivery=off")
    }

    fn count(&self, level: &str) -> usize {
        self.text().lines().filter(|line| line.contains(level)).count()
    }

    /// Reader and acknowledger have each logged one interruption, and its end.
    async fn told_once(&self, what: &str) {
        let waiting = until("it is over", async || self.count("goes on") >= self.count("was interrupted"));
        let in_time = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        let all = self.text();
        assert!(in_time.is_ok(), "{what} is not over: {all}");
        for of in ["reading", "acknowledging"] {
            for text in ["was interrupted", "goes on"] {
                let count = self.count(&format!("{of} {text}"));
                assert!(count <= 1, "{what}: {of} {text}, {count} times: {all}");
            }
        }
        assert!(self.count("WARN") >= 1, "{what}: {all}");
        assert_eq!(self.count("WARN"), self.count("was interrupted"), "{what}: {all}");
        assert_eq!(self.count("INFO"), self.count("goes on") + self.count("group created"), "{what}: {all}");
        assert!(self.count("group created") <= 1, "{what}: {all}");
        let deleted = self.count("were deleted before they were handled");
        assert_eq!(self.count("ERROR"), self.count("is a dead letter now") + deleted, "{what}: {all}");
        assert!(deleted <= 1, "{what}: {all}");
    }
}

/// A consumer that writes dispositions continuously.
async fn busy(proxied: bool, max_retries: u32) -> Rig {
    let config = RedisEventBusConfig {
        retry_delay_ms: 50,
        retry_max_delay_ms: 50,
        max_retries: Some(max_retries),
        pending_idle_ms: 600,
        ..RedisEventBusConfig::default()
    };
    let rig = match proxied {
        true => Rig::behind_a_proxy(config).await,
        false => Rig::on(eventbus_test::private_redis(), config).await,
    };
    let tries = failing(&rig.bus, "fails");
    publish(&rig.bus, "fails").await;
    until("it is tried again and again", async || tries.load(Relaxed) > 3).await;
    rig
}

async fn says_little(what: &str, mut rig: Rig, fault: impl AsyncFnOnce(&mut Rig)) {
    let lines = Lines::default();
    let _here = lines.capture_but_handlers();
    fault(&mut rig).await;
    rig.next().await;
    lines.told_once(what).await;
    eprintln!("{what}:\n{}", lines.text());
}

#[tokio::test]
async fn an_outage_is_told_once() {
    says_little("stopped", busy(false, 1_000).await, async |rig: &mut Rig| {
        rig.server.stop();
        outage().await;
        rig.server.start();
    })
    .await;
    says_little("loading", busy(false, 1_000).await, async |rig: &mut Rig| {
        rig.server.restart_loading();
        until("the consumer was refused again and again", async || rig.refused().await >= 5).await;
        outage().await;
        rig.server.finish_loading();
    })
    .await;
    says_little("half open", busy(true, 1_000).await, async |rig: &mut Rig| {
        rig.proxy.as_ref().unwrap().set(Network::HalfOpen);
        outage().await;
        rig.proxy.as_ref().unwrap().set(Network::Works);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_is_told_once() {
    says_little("replica", busy(false, 1_000).await, async |rig: &mut Rig| {
        let closed_port = eventbus_test::internal::closed_port().to_string();
        let _: () = rig.command("REPLICAOF", &["127.0.0.1", &closed_port]).await;
        outage().await;
        let _: () = rig.command("REPLICAOF", &["NO", "ONE"]).await;
    })
    .await;
    says_little("wrong type", busy(false, 1_000).await, async |rig: &mut Rig| {
        let stream = rig.bus.config().stream_name();
        let _: () = rig.command("SET", &[&stream, "no stream"]).await;
        outage().await;
        let _: () = rig.command("DEL", &[&stream]).await;
    })
    .await;
    says_little("no memory", busy(false, 5).await, async |rig: &mut Rig| {
        let _: () = rig.command("CONFIG", &["SET", "maxmemory", "1"]).await;
        outage().await;
        let _: () = rig.command("CONFIG", &["SET", "maxmemory", "0"]).await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_consumer_says_nothing_and_asks_little() {
    let rigs = [Rig::new().await, Rig::on(eventbus_test::private_redis(), single()).await];
    let lines = Lines::default();
    let _here = lines.capture_but_handlers();
    for rig in &rigs {
        settled(&rig.bus).await;
        let _: () = rig.command("CONFIG", &["RESETSTAT"]).await;
    }
    // longer than the default wait of a read, and than the wait for an answer
    tokio::time::sleep(Duration::from_millis(6_500)).await;
    for rig in &rigs {
        let stats: String = rig.command("INFO", &["commandstats"]).await;
        let calls = calls(&stats);
        eprintln!("single {}, in 6.5 s: {calls:?}", rig.bus.config().single_connection_client);
        let count = |name| calls.iter().find(|(called, _)| *called == name).map_or(0, |(_, count)| *count);
        let reads = if rig.bus.config().single_connection_client { 400 } else { 10 };
        assert!(count("xreadgroup") <= reads && count("evalsha") <= 20, "{calls:?}");
        assert_eq!(rig.reconnections(), 0);
    }
    assert_eq!(lines.text(), "");
}

/// The number of calls of each command, from `INFO commandstats`; calls by scripts count too.
fn calls(stats: &str) -> Vec<(&str, usize)> {
    let call = |line: &'_ str| -> Option<usize> { line.split_once("calls=")?.1.split(',').next()?.parse().ok() };
    stats.lines().filter_map(|line| Some((line.strip_prefix("cmdstat_")?.split(':').next()?, call(line)?))).collect()
}
