//! The reports of a bus about its health, its stream and its groups.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::common::{
    config, config_on, fresh_bus,
    seen::{Gate, Seen, command, event, make_group, publish, start},
    until,
};
use eventbus::{
    App, HandlerError, InMemoryEventStore, Name,
    clock::SharedClock,
    event::EventFilter,
    health::{GroupInfo, HealthStatus, HealthThresholds},
    port::{EventBus, Subscriber},
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

async fn groups(bus: &RedisEventBus) -> Vec<GroupInfo> {
    bus.stream_info().await.consumer_groups
}

/// Reads one entry as a consumer of a second program.
async fn read(bus: &RedisEventBus, consumer: &str) {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let read = ["GROUP", &group, consumer, "COUNT", "1", "STREAMS", &stream, ">"];
    let _: redis::Value = command(bus, "XREADGROUP", &read).await;
}

/// Writes the heartbeat of a member.
async fn announce(bus: &RedisEventBus, name: &str, json: &str) {
    let members = format!("{{{}}}:members:{}", bus.config().stream_name(), bus.default_group());
    let _: i64 = command(bus, "HSET", &[&members, name, json]).await;
}

fn now_in_ms() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() * 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_healthy_while_it_is_connected_and_consumes() {
    let bus = fresh_bus().await;
    let idle = bus.health().await;
    assert_eq!((idle.status, idle.connected, idle.consuming), (HealthStatus::Unhealthy, true, false));
    assert_eq!(idle.alerts(&HealthThresholds::default()), ["not consuming"]);

    let gate = Gate::default();
    gate.join(&bus);
    start(&bus).await;
    publish(&bus, "held").await;
    let _: String = command(&bus, "XADD", &[&bus.config().dlq_stream_name(), "*", "payload", "no json"]).await;
    until("the entry is pending", async || bus.health().await.pending_messages == 1).await;
    let health = bus.health().await;
    let expected = json!({
        "status": "healthy", "connected": true, "consuming": true, "pending_messages": 1, "dlq_messages": 1,
    });
    assert_eq!(serde_json::to_value(&health).unwrap(), expected);
    assert!(health.is_healthy());
    assert!(health.alerts(&HealthThresholds::default()).is_empty());
    let strict = HealthThresholds { pending_messages: 0, dlq_messages: 0, ..Default::default() };
    assert_eq!(health.alerts(&strict), ["1 pending messages, more than 0", "1 dead letters, more than 0"]);
    gate.open();
    bus.stop_consuming().await;
    assert!(!bus.health().await.is_healthy());
}

/// Fails if the commands of a report are sent once only: the kept connection is cut before each of them.
#[tokio::test]
async fn reports_are_read_over_a_new_connection() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let group = bus.default_group();
    publish(&bus, "one").await;
    read(&bus, "python").await;
    let cut = async || {
        let cut: i64 = command(&bus, "CLIENT", &["KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert!(cut > 0, "the kept connection was open");
    };
    cut().await;
    let health = bus.health().await;
    assert_eq!((health.connected, health.pending_messages), (true, 1));
    cut().await;
    assert_eq!(bus.stream_info().await.pending_messages, 1);
    cut().await;
    assert_eq!(bus.progress(group).await.unwrap().pending, 1);
    cut().await;
    assert_eq!(bus.group_consumers(group).await.unwrap()[0].pending, 1);
    cut().await;
    assert_eq!(bus.pending_deliveries(group, 10).await.unwrap().len(), 1);
}

/// A bus of a second process with the same group, which does not consume.
async fn watcher_of(bus: &RedisEventBus) -> RedisEventBus {
    let config = RedisEventBusConfig { consumer_name: None, clock: SharedClock::SYSTEM, ..bus.config().clone() };
    RedisEventBus::connect(config).await.unwrap()
}

async fn alerts(bus: &RedisEventBus, thresholds: &HealthThresholds) -> Vec<String> {
    bus.health().await.with_nothing_to_consume().alerts(thresholds)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_handler_of_another_process_is_busy_with_for_long_is_an_alert() {
    let clock = ManualClock::default();
    let config = RedisEventBusConfig { clock: clock.clone().into(), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let watcher = watcher_of(&bus).await;
    let gate = Gate::default();
    gate.join(&bus);
    let _consumer = start(&bus).await;
    let event = event("held");
    bus.publish(std::slice::from_ref(&event)).await.unwrap();
    let id = event.metadata().event_id().to_string();
    let name = bus.config().consumer_name.clone().unwrap();
    let thresholds = HealthThresholds::default();
    // until the handler's time limit ends it
    until("it takes too long", async || {
        clock.advance(Duration::from_secs(1));
        bus.health().await.in_flight.iter().any(|run| Duration::from_secs(run.seconds) > thresholds.in_flight_age)
    })
    .await;
    until("another process says who is busy with what", async || {
        alerts(&watcher, &thresholds).await.iter().any(|alert| {
            alert.starts_with(&format!(
                "`gate` of `{}` in `{name}` is busy with `OrderCreated` {id}",
                bus.default_group()
            ))
        })
    })
    .await;
    let own = bus.health().await.in_flight;
    assert!(own.len() == 1 && own[0].consumer.is_none(), "its own is not told twice: {own:?}");
    gate.open();
    until("the alert ends", async || alerts(&watcher, &thresholds).await.is_empty()).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_has_an_entry_and_shows_no_life_is_an_alert() {
    let bus = RedisEventBus::connect(RedisEventBusConfig { pending_idle_ms: 1_000, ..config() }).await.unwrap();
    bus.publish(&[event("a"), event("b")]).await.unwrap();
    read(&bus, "python").await;
    let thresholds = HealthThresholds { in_flight_age: Duration::ZERO, ..Default::default() };
    let group = bus.default_group();
    let text = format!("`python` of `{group}` has entry ");
    until("it is an alert", async || alerts(&bus, &thresholds).await.iter().any(|alert| alert.starts_with(&text)))
        .await;

    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    until("the entry is taken over", async || seen.all().len() == 2).await;
    until("the alert ends", async || alerts(&bus, &thresholds).await.is_empty()).await;
}

/// Fails if the claims alone tell: a member renews them at the interval of its own configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_renews_its_claims_seldom_and_sends_heartbeats_is_not_silent() {
    let bus = RedisEventBus::connect(RedisEventBusConfig { pending_idle_ms: 2, ..config() }).await.unwrap();
    bus.publish(&[event("a"), event("b")]).await.unwrap();
    announce(&bus, "seldom", &format!(r#"{{"at":{},"live_ms":600000}}"#, now_in_ms())).await;
    read(&bus, "seldom").await;
    read(&bus, "python").await;
    until("the one of the other program is silent", async || {
        bus.health().await.silent.iter().any(|silent| silent.consumer == "python")
    })
    .await;
}

/// A handler that fails until the test sets the flag.
fn failing(bus: &RedisEventBus) -> Arc<AtomicBool> {
    let is_mended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_mended);
    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, move |_| {
        let is_mended = told.load(Ordering::SeqCst);
        Box::pin(async move { if is_mended { Ok(()) } else { Err("told to fail".into()) } })
    });
    bus.add_subscriber(bus.default_group().clone(), fail);
    is_mended
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_for_five_minutes_is_an_alert_in_each_process_until_it_is_handled() {
    let clock = ManualClock::default();
    let config = RedisEventBusConfig { clock: clock.clone().into(), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let watcher = RedisEventBusConfig { consumer_name: None, ..bus.config().clone() };
    let watcher = RedisEventBus::connect(watcher).await.unwrap();
    let is_mended = failing(&bus);
    start(&bus).await;
    bus.publish(&[event("a"), event("a"), event("b")]).await.unwrap();
    until("they are pending, and it is noted that one failed", async || {
        bus.health().await.pending_messages == 3 && !watcher.health().await.unfinished.is_empty()
    })
    .await;
    let since = shown(&clock);
    // at default delays it fails a dozen times
    for _ in 0..299 {
        clock.advance(Duration::from_secs(1));
    }
    for bus in [&bus, &watcher] {
        assert_eq!(alerts(bus, &HealthThresholds::default()).await, [""; 0], "not yet five minutes");
    }
    clock.advance(Duration::from_secs(2));
    until("it has failed anew", async || bus.stats().handler_errors > 2).await;
    let (group, failures) = (bus.default_group(), bus.stats().handler_errors);
    let expected =
        format!("`fail` of `{group}` fails with an event since {since}, for 301 s; unfinished in the group: 3");
    for bus in [&bus, &watcher] {
        assert_eq!(alerts(bus, &HealthThresholds::default()).await, [expected.as_str()], "{failures} failures");
    }
    assert!(bus.health().await.is_healthy(), "others are handled");

    is_mended.store(true, Ordering::SeqCst);
    until("it is handled", async || {
        clock.advance(Duration::from_secs(1));
        bus.health().await.pending_messages == 0
    })
    .await;
    for bus in [&bus, &watcher] {
        until("the alert ends", async || bus.health().await.unfinished.is_empty()).await;
    }
    bus.stop_consuming().await;
}

/// A time in the format of reports.
fn shown(clock: &ManualClock) -> String {
    let now = SharedClock::from(clock.clone()).now().replace_nanosecond(0).unwrap();
    now.format(&Rfc3339).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_for_its_retry_is_neither_silent_nor_in_flight() {
    const SILENT_AFTER_MS: i64 = 4_000;
    let clock = ManualClock::default();
    let pending_idle_ms = 2 * SILENT_AFTER_MS.unsigned_abs();
    let config = RedisEventBusConfig { pending_idle_ms, clock: clock.clone().into(), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let watcher = watcher_of(&bus).await;
    let later = Subscriber::new(Name::from_static("later"), EventFilter::All, |_| {
        Box::pin(async { Err(HandlerError::retry_after(Duration::from_secs(86_400), "not yet")) })
    });
    bus.add_subscriber(bus.default_group().clone(), later);
    start(&bus).await;
    let published_at = now_in_ms();
    publish(&bus, "waits").await;
    until("it has failed", async || bus.stats().handler_errors == 1).await;
    // with this threshold any age is too high
    let thresholds = HealthThresholds { in_flight_age: Duration::ZERO, ..Default::default() };
    until("it has waited for longer than a consumer may be silent", async || {
        clock.advance(Duration::from_secs(1));
        for bus in [&bus, &watcher] {
            let health = bus.health().await;
            assert_eq!((&health.silent[..], &health.in_flight[..]), (&[][..], &[][..]));
            let alerts = health.with_nothing_to_consume().alerts(&thresholds);
            assert!(alerts.iter().all(|alert| alert.starts_with("`later` of ")), "{alerts:?}");
        }
        now_in_ms() > published_at + SILENT_AFTER_MS + 2_000
    })
    .await;
    assert_eq!((bus.health().await.pending_messages, bus.stats().handler_errors), (1, 1), "it waits still");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_consumer_of_ours_has_in_hand_counts_as_unfinished_since_it_was_published() {
    let bus = fresh_bus().await;
    bus.publish(&[event("a")]).await.unwrap();
    read(&bus, "python").await;
    let published_at = groups(&bus).await.remove(0).oldest_pending_id.unwrap();
    let published_at: i64 = published_at.split_once('-').unwrap().0.parse().unwrap();
    let is_old = HealthThresholds { unfinished_age: Duration::ZERO, ..Default::default() };
    until("it is an alert", async || {
        let text = format!("`{}` has not finished an event since ", bus.default_group());
        alerts(&bus, &is_old).await.iter().any(|alert| alert.starts_with(&text))
    })
    .await;
    let oldest = bus.health().await.unfinished.remove(0);
    let since = OffsetDateTime::parse(&oldest.since, &Rfc3339).unwrap().unix_timestamp();
    assert!((since - published_at / 1_000).abs() <= 1, "{oldest:?} was published at {published_at}");
    // an entry of a live member, at which no handler failed, counts as about to be handled
    announce(&bus, "python", &format!(r#"{{"at":{},"live_ms":600000}}"#, now_in_ms())).await;
    assert_eq!(bus.health().await.unfinished, []);
}

#[test]
fn the_thresholds_are_those_of_the_tutorial() {
    assert_eq!(
        HealthThresholds::default(),
        HealthThresholds {
            pending_messages: 1_000,
            dlq_messages: 10,
            in_flight_age: Duration::from_secs(30),
            unfinished_age: Duration::from_secs(300),
            lag_seconds: 60,
        }
    );
}

#[tokio::test]
async fn a_bus_without_its_server_says_why_it_is_unhealthy() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    server.stop();
    let health = bus.health().await;
    assert_eq!((health.status, health.connected, health.pending_messages), (HealthStatus::Unhealthy, false, 0));
    let error = health.error.clone().unwrap();
    let json = serde_json::to_value(&health).unwrap();
    assert_eq!((&json["status"], &json["error"]), (&json!("unhealthy"), &json!(error)));
    let alerts = health.alerts(&HealthThresholds::default());
    assert_eq!(alerts, [format!("not connected: {error}"), "not consuming".into()]);
    server.start();
    assert!(bus.health().await.connected);
    bus.disconnect().await;
    assert_eq!(bus.health().await.error.as_deref(), Some("the bus was disconnected"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_without_its_server_is_down_in_the_metrics_of_its_app() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus).start().await.unwrap();
    let number = async |name| app.metrics().await.number(name, &[]);
    assert_eq!((number("eventbus_bus_up").await, number("eventbus_dead_letters").await), (Some(1.0), Some(0.0)));
    server.stop();
    until("the bus is down", async || number("eventbus_bus_up").await == Some(0.0)).await;
    assert_eq!(number("eventbus_dead_letters").await, None, "what the bus does not answer has no sample");
    server.start();
    until("the bus is up", async || number("eventbus_bus_up").await == Some(1.0)).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn members_count_as_long_as_they_show_life_and_others_as_long_as_they_are_busy() {
    let bus = RedisEventBus::connect(RedisEventBusConfig { pending_idle_ms: 600_000, ..config() }).await.unwrap();
    let active = async |bus: &RedisEventBus| bus.stream_info().await.active_consumers;
    assert_eq!(active(&bus).await, 0);
    make_group(&bus).await;
    bus.publish(&[event("a"), event("b"), event("c")]).await.unwrap();
    announce(&bus, "live", &format!(r#"{{"at":{},"live_ms":600000,"event_types":["OrderCreated"]}}"#, now_in_ms()))
        .await;
    assert_eq!(active(&bus).await, 1, "though it has not read anything yet");
    announce(&bus, "dead", &format!(r#"{{"at":{},"live_ms":1000}}"#, now_in_ms() - 700_000)).await;
    read(&bus, "dead").await;
    read(&bus, "live").await;
    assert_eq!(active(&bus).await, 1, "a member that says no more is dead, whatever it did last");
    read(&bus, "python").await;
    announce(&bus, "odd", "no json").await;
    assert_eq!(active(&bus).await, 2, "the one of another program was busy just now");
    let group = groups(&bus).await.remove(0);
    assert_eq!((group.consumers, group.active_consumers, group.pending), (3, 2, 3), "{group:?}");
    // this bus counts a consumer as idle after 1 ms
    let impatient = RedisEventBusConfig { pending_idle_ms: 1, ..bus.config().clone() };
    let impatient = RedisEventBus::connect(impatient).await.unwrap();
    until("the other program is no longer busy", async || active(&impatient).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_described_with_where_it_is_and_what_it_has_left() {
    let bus = fresh_bus().await;
    make_group(&bus).await;
    let ids = bus.publish(&[event("a"), event("b"), event("c")]).await.unwrap();
    let group = groups(&bus).await.remove(0);
    assert_eq!((group.last_delivered_id.as_deref(), group.lag), (Some("0-0"), Some(3)));
    assert_eq!((group.oldest_pending_id, group.oldest_pending_age_ms), (None, None));
    let unread_age = async || groups(&bus).await.remove(0).oldest_unread_age_ms;
    until("what is not read grows older", async || unread_age().await.is_some_and(|age| (1..600_000).contains(&age)))
        .await;
    for _ in 0..2 {
        read(&bus, "one").await;
    }
    let stream = bus.config().stream_name();
    let _: i64 = command(&bus, "XACK", &[&stream, bus.default_group(), ids[0].as_str()]).await;
    let group = groups(&bus).await.remove(0);
    assert_eq!((group.last_delivered_id.as_deref(), group.lag), (Some(ids[1].as_str()), Some(1)));
    assert_eq!(group.oldest_pending_id.as_deref(), Some(ids[1].as_str()));
    assert!(group.oldest_pending_age_ms.is_some_and(|age| age < 600_000), "{group:?}");

    Seen::default().join(&bus);
    start(&bus).await;
    until("the rest is handled", async || {
        let group = groups(&bus).await.remove(0);
        (group.lag, group.pending) == (Some(0), 1)
    })
    .await;
    assert_eq!(unread_age().await, Some(0));
    bus.stop_consuming().await;

    // behind the highest id there is no range to read
    let last = format!("{0}-{0}", u64::MAX);
    let _: String = command(&bus, "XADD", &[&stream, &last, "a", "b"]).await;
    read(&bus, "one").await;
    let group = groups(&bus).await.remove(0);
    assert_eq!((group.last_delivered_id, group.oldest_unread_age_ms), (Some(last), Some(0)));
}
