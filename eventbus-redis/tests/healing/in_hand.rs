//! Faults while a consumer has entries in flight: running, waiting for a retry, blocked behind an earlier one.

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
use tokio::sync::Semaphore;

use crate::{
    common::{
        proxy::Network,
        seen::{event, publish, settled, start},
        until,
    },
    rig::{Rig, configs, failing, for_each, outage},
};

/// A handler that counts its runs for one aggregate, and the concurrent ones among them.
#[derive(Debug, Clone)]
struct Slow {
    runs: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

/// Counts a run as ended, also a cancelled one.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Slow {
    fn join(bus: &RedisEventBus, id: &'static str) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let slow = Self { runs: Arc::default(), running: Arc::default(), most: Arc::default(), gate };
        let of_handler = slow.clone();
        let handler = Subscriber::new(Name::from_static("slow"), EventFilter::All, move |delivery| {
            let slow = of_handler.clone();
            let is_slow = delivery.metadata().aggregate_id().as_str() == id;
            Box::pin(async move {
                if is_slow {
                    slow.run().await;
                }
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), handler);
        slow
    }

    async fn run(&self) {
        self.runs.fetch_add(1, Relaxed);
        self.most.fetch_max(self.running.fetch_add(1, Relaxed) + 1, Relaxed);
        let _leave = Leave(Arc::clone(&self.running));
        drop(self.gate.acquire().await);
    }

    async fn is_running(&self) {
        until("it is being handled", async || self.running.load(Relaxed) == 1).await;
    }

    fn let_go(&self) {
        self.gate.close();
    }
}

fn config() -> RedisEventBusConfig {
    RedisEventBusConfig {
        concurrency: 4,
        retry_delay_ms: 400,
        retry_max_delay_ms: 400,
        max_retries: Some(2),
        pending_idle_ms: 600,
        ..RedisEventBusConfig::default()
    }
}

/// A consumer with one running entry, one that has failed once, and one blocked behind each of them.
async fn with_full_hands() -> (Rig, Slow, Arc<AtomicUsize>) {
    let rig = Rig::on(eventbus_test::private_redis(), config()).await;
    let (slow, fails) = (Slow::join(&rig.bus, "slow"), failing(&rig.bus, "fails"));
    rig.bus.publish(&[event("slow"), event("slow"), event("fails"), event("fails")]).await.unwrap();
    slow.is_running().await;
    until("one has failed", async || fails.load(Relaxed) == 1).await;
    until("what came before is acknowledged", async || rig.pending().await == 4).await;
    (rig, slow, fails)
}

async fn dead_letters(rig: &Rig) -> u64 {
    rig.bus.stream_info().await.dlq_messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_handles_the_entries_it_holds_after_the_server_has_lost_them() {
    let (mut rig, slow, fails) = with_full_hands().await;
    let _: () = rig.command("FLUSHALL", &[]).await;
    rig.next().await;
    assert_eq!(slow.most.load(Relaxed), 1);
    slow.let_go();
    until("both that are slow are handled", async || slow.runs.load(Relaxed) == 2).await;
    until("both that fail are dead letters", async || dead_letters(&rig).await == 2).await;
    rig.next().await;
    assert_eq!(settled(&rig.bus).await, 0);
    assert_eq!((slow.runs.load(Relaxed), fails.load(Relaxed)), (2, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice_at_once_when_its_group_is_made_anew() {
    let (mut rig, slow, fails) = with_full_hands().await;
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
    for _ in 0..3 {
        let _: i64 = rig.command("XGROUP", &["DESTROY", &stream, &group]).await;
        rig.next().await;
    }
    // all unfinished entries are pending again
    slow.is_running().await;
    let claimed = slow.runs.load(Relaxed);
    slow.let_go();
    until("both that fail are dead letters", async || dead_letters(&rig).await == 2).await;
    rig.next().await;
    assert_eq!(settled(&rig.bus).await, 0);
    assert_eq!((slow.most.load(Relaxed), claimed), (1, 1), "the run was not even interrupted");
    assert_eq!((slow.runs.load(Relaxed), fails.load(Relaxed)), (2, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_interrupted_by_a_group_that_has_yet_to_read_its_entry_again() {
    let config = RedisEventBusConfig { max_in_flight: Some(2), batch_size: 2, concurrency: 1, ..config() };
    let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
    let slow = Slow::join(&rig.bus, "slow");
    rig.bus.publish(&[event("slow"), event("slow")]).await.unwrap();
    slow.is_running().await;
    until("the hands are full", async || rig.pending().await == 2).await;
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
    let _: i64 = rig.command("XGROUP", &["DESTROY", &stream, &group]).await;
    until("the group is back", async || {
        rig.bus.stream_info().await.consumer_groups.iter().any(|found| found.name == group)
    })
    .await;
    // longer than the consumer takes to ask for the owners of its entries
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((slow.runs.load(Relaxed), slow.running.load(Relaxed)), (1, 1));
    slow.let_go();
    rig.next().await;
    assert_eq!((settled(&rig.bus).await, slow.most.load(Relaxed)), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_pays_with_an_attempt_for_a_server_that_loads_its_data() {
    let (mut rig, slow, fails) = with_full_hands().await;
    rig.server.restart_loading();
    // the handler ends while the server accepts no writes, and the failed entry is due again meanwhile
    slow.let_go();
    until("it was handled", async || slow.running.load(Relaxed) == 0).await;
    until("the consumer was refused again and again", async || rig.refused().await >= 5).await;
    outage().await;
    rig.server.finish_loading();
    until("both that fail are dead letters", async || dead_letters(&rig).await == 2).await;
    rig.next().await;
    assert_eq!(settled(&rig.bus).await, 0);
    assert_eq!((slow.runs.load(Relaxed), fails.load(Relaxed)), (2, 6), "each once, and three times each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_claims_is_let_go() {
    let (mut rig, slow, fails) = with_full_hands().await;
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
    let pending: Vec<(String, String, i64, i64)> = rig.command("XPENDING", &[&stream, &group, "-", "+", "10"]).await;
    let mut claim = redis::cmd("XCLAIM");
    claim.arg(&stream).arg(&group).arg("somebody").arg(0).arg(pending.iter().map(|(id, ..)| id).collect::<Vec<_>>());
    claim.arg("JUSTID");
    let mut connection = eventbus_test::internal::redis_connection(rig.server.url()).await;
    // a consumer that shows signs of life
    let lives = tokio::spawn(async move {
        loop {
            let claimed: Vec<String> = claim.query_async(&mut connection).await.unwrap();
            assert_eq!(claimed.len(), 4);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    until("the handler was cancelled", async || slow.running.load(Relaxed) == 0).await;
    let tries = fails.load(Relaxed);
    // longer than a retry takes
    tokio::time::sleep(Duration::from_millis(900)).await;
    rig.next().await;
    lives.abort();
    assert_eq!((slow.runs.load(Relaxed), fails.load(Relaxed)), (1, tries));
    assert!(tries <= 2, "{tries} runs");
    let left: Vec<(String, String, i64, i64)> = rig.command("XPENDING", &[&stream, &group, "-", "+", "10"]).await;
    assert!(left.iter().filter(|(_, consumer, ..)| consumer == "somebody").count() == 4, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_that_are_full_are_emptied_though_the_group_is_gone() {
    for destroy in [false, true] {
        let config = RedisEventBusConfig { max_in_flight: Some(1), batch_size: 1, concurrency: 1, ..config() };
        let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
        let fails = failing(&rig.bus, "fails");
        rig.bus.publish(&[event("fails")]).await.unwrap();
        until("it has failed", async || fails.load(Relaxed) == 1).await;
        let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
        match destroy {
            true => rig.command::<()>("XGROUP", &["DESTROY", &stream, &group]).await,
            false => rig.command::<()>("FLUSHALL", &[]).await,
        }
        rig.next().await;
        until("what failed is a dead letter", async || dead_letters(&rig).await == 1).await;
        assert_eq!((settled(&rig.bus).await, fails.load(Relaxed)), (0, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_keeps_its_tries_however_often_its_group_is_made_anew() {
    let config = RedisEventBusConfig { retry_delay_ms: 30, retry_max_delay_ms: 30, max_retries: Some(25), ..config() };
    let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
    let fails = failing(&rig.bus, "fails");
    rig.bus.publish(&[event("fails"), event("fails")]).await.unwrap();
    let (stream, group) = (rig.bus.config().stream_name(), rig.bus.default_group().to_string());
    for times in 1..=12 {
        until("it was tried again", async || fails.load(Relaxed) >= 2 * times).await;
        let _: i64 = rig.command("XGROUP", &["DESTROY", &stream, &group]).await;
    }
    until("both are dead letters", async || dead_letters(&rig).await == 2).await;
    rig.next().await;
    assert_eq!((settled(&rig.bus).await, fails.load(Relaxed)), (0, 52));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_got_lost_is_sent_again_soon() {
    for_each(configs(), async |config| {
        // the bus would wait this long for a reply
        let config = RedisEventBusConfig { socket_timeout: Duration::from_secs(60), ..config };
        let mut rig = Rig::behind_a_proxy(config).await;
        let slow = Slow::join(&rig.bus, "slow");
        rig.bus.publish(&[event("slow")]).await.unwrap();
        slow.is_running().await;
        let proxy = rig.proxy.as_ref().unwrap();
        proxy.set(Network::HalfOpen);
        slow.let_go();
        outage().await;
        proxy.set(Network::Works);
        let back = Instant::now();
        until("it is acknowledged", async || rig.pending().await == 0).await;
        let took = back.elapsed();
        eprintln!("single {}: acknowledged after {took:?}", rig.bus.config().single_connection_client);
        assert!(took < Duration::from_secs(3), "{took:?}");
        rig.next().await;
        assert_eq!(slow.runs.load(Relaxed), 1);
    })
    .await;
}

/// Fails if a shutdown gives up the last acknowledgement long before its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_handled_before_a_shutdown_is_acknowledged_though_the_server_is_away_for_some_seconds() {
    let config = RedisEventBusConfig { consumer_name: Some("stable".into()), ..config() };
    let rig = Rig::behind_a_proxy(config).await;
    let slow = Slow::join(&rig.bus, "slow");
    rig.bus.publish(&[event("slow")]).await.unwrap();
    slow.is_running().await;
    let proxy = rig.proxy.as_ref().unwrap();
    proxy.set(Network::HalfOpen);
    slow.let_go();
    let back = async {
        outage().await;
        outage().await;
        proxy.set(Network::Works);
    };
    let (stopped, ()) = tokio::join!(rig.bus.shutdown(Duration::from_secs(30)), back);
    stopped.unwrap();
    let next = RedisEventBus::connect(rig.bus.config().clone()).await.unwrap();
    assert_eq!(next.progress(next.default_group()).await.unwrap().pending, 0);
    let again = Slow::join(&next, "slow");
    rig.seen.join(&next);
    start(&next).await;
    publish(&next, "last").await;
    until("the last is handled", async || rig.seen.all().contains(&"last".to_owned())).await;
    assert_eq!(again.runs.load(Relaxed), 0);
}
