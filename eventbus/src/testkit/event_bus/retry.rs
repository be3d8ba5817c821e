//! Rules of retries and dead letters.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    Bus,
    fixtures::{
        CREATED, RecordingHandler, consume, event_of, event_of_tenant, events, progress, publish, sorted, wait_until,
        wait_until_idle, wait_until_started,
    },
};
use crate::{
    domain::event::EventFilter,
    port::{delivery::HandlerError, health::HealthThresholds},
};

const RETRY_DELAY: Duration = Duration::from_millis(400);

/// An error that requests a retry delay which is long for a test.
fn retry_later() -> HandlerError {
    HandlerError::retry_after(RETRY_DELAY, "failure on demand")
}

/// A failing delivery runs once and is retried as often as the handler's `retries` allow; then it is a dead letter, and
/// no longer pending.
pub async fn a_failed_delivery_is_tried_again_and_then_a_dead_letter(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(2);
    handler.fail_on(&[2]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=3)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(sorted(handler.completed()), [1, 3], "the others");
    let attempts: Vec<u32> = handler.attempts_at(2).iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3], "attempts at the one that fails");
    let info = bus.stream_info().await;
    assert_eq!((info.pending_messages, info.dlq_messages), (0, 1), "pending, and dead letters");
    let stats = bus.stats();
    assert_eq!(stats.messages_sent_to_dlq, 1, "dead letters in the stats");
    assert_eq!((stats.events_processed_failed, stats.events_processed_success), (3, 2), "failed, and successful");
    consumer.stop().await;
}

/// After a failure only the handlers that have not succeeded run again, each up to its own `retries`.
pub async fn only_failed_handlers_run_again(bus: Bus, _: Bus) {
    let (good, once, often) =
        (RecordingHandler::new(), RecordingHandler::new().with_retries(1), RecordingHandler::new().with_retries(4));
    once.fail_on(&[1]);
    often.fail_times(3, &[1]);
    let group = bus.default_group();
    for handler in [&good, &once, &often] {
        handler.subscribe(&bus, group, EventFilter::All);
    }
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    let started = [&good, &once, &often].map(|handler| handler.started().len());
    assert_eq!(started, [1, 2, 4], "runs of the one that succeeds, of one with a retry, of one with four");
    assert_eq!(bus.stream_info().await.dlq_messages, 1, "one of them gave up");
    consumer.stop().await;
}

/// A delivery that succeeds at a later attempt is acknowledged, and does not become a dead letter.
pub async fn success_after_a_failure_acknowledges(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(2);
    handler.fail_times(2, &[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!((handler.started(), handler.completed()), (vec![1, 1, 1], vec![1]), "started, and completed");
    let (info, stats) = (bus.stream_info().await, bus.stats());
    assert_eq!((info.dlq_messages, stats.messages_sent_to_dlq), (0, 0), "dead letters");
    assert_eq!((stats.events_processed_failed, stats.events_processed_success), (2, 1), "failed, and successful");
    consumer.stop().await;
}

/// A permanent error is not retried.
pub async fn a_permanent_error_is_not_tried_again(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(5).with_error(|| HandlerError::permanent("failure on demand"));
    handler.fail_on(&[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(handler.started(), [1], "deliveries");
    assert_eq!(bus.stream_info().await.dlq_messages, 1, "dead letters");
    consumer.stop().await;
}

/// A handler that requests a delay is not retried before that delay has passed.
pub async fn a_handler_that_asks_for_a_delay_gets_it(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(1).with_error(retry_later);
    handler.fail_times(1, &[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    let [(1, first), (2, second)] = handler.attempts_at(1)[..] else {
        panic!("attempts: {:?}", handler.attempts_at(1));
    };
    assert!(second - first >= RETRY_DELAY, "tried again after {:?}", second - first);
    consumer.stop().await;
}

/// A handler that exceeds its timeout is cancelled; that counts as a failure, and is retried.
pub async fn a_handler_that_takes_too_long_is_tried_again(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(1).with_timeout(Duration::from_millis(50));
    handler.hang_on(&[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=2)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!((handler.attempts_at(1).len(), handler.completed()), (2, vec![2]), "attempts, and the next delivery");
    assert_eq!(handler.running().0, 0, "it was ended");
    assert_eq!(bus.stats().handler_errors, 2, "handler errors");
    consumer.stop().await;
}

/// A panic is a failure, and is retried.
pub async fn a_panic_is_tried_again(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(2);
    handler.panic_on(&[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &events(1..=1)).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(handler.started(), [1, 1, 1], "deliveries");
    assert_eq!(bus.stream_info().await.dlq_messages, 1, "dead letters");
    consumer.stop().await;
}

/// While a delivery waits for its retry, later events of its aggregate wait and keep their order; events of other
/// aggregates are delivered.
pub async fn a_retry_holds_up_its_own_aggregate_only(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new().with_retries(1).with_error(retry_later);
    handler.fail_times(1, &[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let of = |aggregate, number| event_of(aggregate, CREATED, number);
    publish(&bus, &[of("a", 1), of("a", 2), of("b", 3), of("a", 4), of("c", 5)]).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(handler.started(), [1, 3, 5, 1, 2, 4], "deliveries");
    consumer.stop().await;
}

/// Deliveries that wait for a retry, and those blocked behind them, do not block other aggregates, even if they are
/// more than a consumer holds in flight.
pub async fn what_waits_for_a_retry_keeps_others_from_nothing(bus: Bus, _: Bus) {
    const WAITING: u64 = 1_100;
    let handler = RecordingHandler::new().with_retries(1).with_error(|| {
        let hours = Duration::from_secs(3 * 3_600);
        HandlerError::retry_after(hours, "failure on demand")
    });
    let waiting: Vec<u64> = (1..=WAITING).collect();
    handler.fail_times(1, &waiting);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let of = |aggregate: &str, number| event_of(aggregate, CREATED, number);
    let failing: Vec<_> = waiting.iter().map(|number| of(&number.to_string(), *number)).collect();
    publish(&bus, &failing).await;
    let (blocked, others) = (WAITING + 1..=WAITING + 20, WAITING + 21..=WAITING + 60);
    publish(&bus, &blocked.map(|number| of("7", number)).collect::<Vec<_>>()).await;
    publish(&bus, &others.clone().map(|number| of(&number.to_string(), number)).collect::<Vec<_>>()).await;
    wait_until("the other events are handled", async || handler.completed().len() == 40).await;
    assert_eq!(handler.completed(), others.collect::<Vec<_>>(), "in their order, and none that is blocked");
    assert_eq!(handler.started().len() as u64, WAITING + 40, "each once");
    wait_until("what waits is pending", async || progress(&bus, group).await.pending == WAITING + 20).await;
    consumer.stop().await;
}

/// After a dead letter the later events of its aggregate are delivered, in order.
pub async fn a_dead_letter_holds_up_nothing(bus: Bus, _: Bus) {
    let handler = RecordingHandler::new();
    handler.fail_on(&[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let all: Vec<_> = (1..=4).map(|number| event_of("a", CREATED, number)).collect();
    publish(&bus, &all).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(sorted(handler.started()), [1, 2, 3, 4], "deliveries");
    consumer.stop().await;
}

/// An event that keeps failing raises an alert once it is old. The alert names the group, the handler, the time of the
/// first failure and the number of unfinished deliveries; the bus stays healthy. The alert ends when the event is
/// finished; a dead letter raises none.
pub async fn an_event_that_fails_for_long_is_an_alert_until_it_is_finished(bus: Bus, _: Bus) {
    let soon = || HandlerError::retry_after(Duration::from_millis(100), "failure on demand");
    let handler = RecordingHandler::new().with_retries(u32::MAX).with_error(soon);
    let bad = RecordingHandler::logging("bad", &std::sync::Arc::default()).with_retries(1);
    handler.fail_on(&[1]);
    bad.fail_on(&[2]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    bad.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let published_at = OffsetDateTime::now_utc().unix_timestamp();
    publish(&bus, &events(1..=3)).await;
    wait_until_started(&handler, 4).await;
    let failed_by = OffsetDateTime::now_utc().unix_timestamp();
    wait_until("the other events are finished", async || progress(&bus, group).await.pending == 1).await;
    let is_old = HealthThresholds { unfinished_age: Duration::from_secs(1), ..HealthThresholds::default() };
    wait_until("it is an alert", async || !bus.health().await.alerts(&is_old).is_empty()).await;
    let health = bus.health().await;
    let [oldest] = &health.unfinished[..] else { panic!("not one unfinished group: {health:?}") };
    assert_eq!(
        (oldest.group.as_str(), oldest.unfinished),
        (group.as_str(), 1),
        "its group, and how many are unfinished"
    );
    assert_eq!(oldest.handler.as_deref(), Some("recorder"), "the handler");
    let since = OffsetDateTime::parse(&oldest.since, &Rfc3339).expect("a time").unix_timestamp();
    assert!((published_at..=failed_by).contains(&since), "since its first failure, not since {since}");
    assert!(oldest.seconds > 1, "seconds: {}", oldest.seconds);
    assert_eq!(health.alerts(&is_old), [oldest.to_string()], "alerts");
    assert!(health.is_healthy() && health.is_ready(), "the bus is healthy and ready: {health:?}");
    assert!(health.alerts(&HealthThresholds::default()).is_empty(), "seconds are not long");
    handler.fail_on(&[]);
    wait_until_idle(&bus, group).await;
    wait_until("the alert ends", async || bus.health().await.unfinished.is_empty()).await;
    assert_eq!(bus.stream_info().await.dlq_messages, 1, "dead letters");
    consumer.stop().await;
}

/// A handler with `concurrency` runs that many deliveries at once, of different aggregates; deliveries of one aggregate
/// run one after the other, in order.
pub async fn concurrency_is_for_different_aggregates(bus: Bus, _: Bus) {
    let handler = RecordingHandler::gated().with_concurrency(3);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let of = |aggregate, number| event_of(aggregate, CREATED, number);
    publish(&bus, &[of("a", 1), of("a", 2), of("b", 3), of("c", 4), of("a", 5), of("d", 6)]).await;
    wait_until("three are being handled", async || handler.running().0 == 3).await;
    let mut started = handler.started();
    started.sort_unstable();
    assert_eq!(started, [1, 3, 4], "one of each aggregate");
    for _ in 0..6 {
        handler.allow_one();
    }
    wait_until_idle(&bus, group).await;
    let (_, most) = handler.running();
    assert_eq!(most, 3, "at once");
    let of_a: Vec<u64> = handler.started().into_iter().filter(|number| [1, 2, 5].contains(number)).collect();
    assert_eq!(of_a, [1, 2, 5], "order within an aggregate");
    assert_eq!(bus.stats().handler_errors, 0, "handler errors");
    consumer.stop().await;
}

/// Streams of the same type and id, but of different tenants, do not block each other: while a handler runs for one
/// tenant's event, and while that event waits for its retry, handlers run for the events of other tenants. The later
/// events of its own stream wait.
pub async fn a_delivery_of_one_tenant_blocks_no_stream_of_another(bus: Bus, _: Bus) {
    let hours = || HandlerError::retry_after(Duration::from_secs(3 * 3_600), "failure on demand");
    let handler = RecordingHandler::new().with_concurrency(3).with_retries(1).with_error(hours);
    handler.hold(&[1]);
    handler.fail_times(1, &[1]);
    let group = bus.default_group();
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    let [a, b] = [0xa, 0xb].map(|id| Some(Uuid::from_u128(id)));
    let of = |tenant, number| event_of_tenant(tenant, "1", number);
    publish(&bus, &[of(a, 1), of(a, 2), of(b, 3), of(None, 4), of(b, 5), of(None, 6)]).await;
    let completed = async |wanted: &[u64]| {
        let mut completed = handler.completed();
        completed.sort_unstable();
        completed == wanted
    };
    let is_held = || handler.running().0 == 1;
    wait_until("the others are handled beside the held one", async || completed(&[3, 4, 5, 6]).await && is_held())
        .await;
    handler.hold(&[]);
    wait_until("it has failed", async || bus.stats().events_processed_failed == 1).await;
    publish(&bus, &[of(a, 7), of(b, 8), of(None, 9)]).await;
    wait_until("the others are handled while it waits", async || completed(&[3, 4, 5, 6, 8, 9]).await).await;
    wait_until("its own stream is pending", async || progress(&bus, group).await.pending == 3).await;
    let of_streams = |numbers: &[u64]| -> Vec<u64> {
        handler.started().into_iter().filter(|number| numbers.contains(number)).collect()
    };
    assert_eq!(of_streams(&[1, 2, 7]), [1], "attempts in its own stream");
    assert_eq!((of_streams(&[3, 5, 8]), of_streams(&[4, 6, 9])), (vec![3, 5, 8], vec![4, 6, 9]), "order in the others");
    consumer.stop().await;
}

/// A delivery that waits for its retry when consuming stops is delivered again after the restart, to the handlers that
/// have not succeeded, before later events of its aggregate.
pub async fn a_delivery_that_waits_for_its_retry_comes_again_after_a_restart(bus: Bus, _: Bus) {
    let (good, handler) = (RecordingHandler::new(), RecordingHandler::new().with_retries(1).with_error(retry_later));
    handler.fail_times(1, &[1]);
    let group = bus.default_group();
    good.subscribe(&bus, group, EventFilter::All);
    handler.subscribe(&bus, group, EventFilter::All);
    let consumer = consume(&bus).await;
    publish(&bus, &[event_of("a", CREATED, 1)]).await;
    wait_until_started(&handler, 1).await;
    wait_until("it has failed", async || bus.stats().events_processed_failed == 1).await;
    consumer.stop().await;
    let now = progress(&bus, group).await;
    assert_eq!((now.unread, now.pending, now.is_settled()), (0, 1, false), "it is pending: {now:?}");
    publish(&bus, &[event_of("a", CREATED, 2)]).await;
    let consumer = consume(&bus).await;
    wait_until_idle(&bus, group).await;
    assert_eq!(handler.started(), [1, 1, 2], "deliveries");
    let attempts: Vec<u32> = handler.attempts_at(1).iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2], "attempts");
    assert_eq!(good.started(), [1, 2], "the handler that had succeeded");
    consumer.stop().await;
}
