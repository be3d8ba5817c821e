use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    __private::{HandlerRegistration, inventory},
    InMemoryEventBus,
    delivery::{ActiveSubscriber, DeliveryAttempts, Limits, Outcome, dispatch},
    handler::{Delivery, Handler, HandlerErrorKind, StateMap},
    port::EventBus,
    prelude::*,
};

use super::domain::{Audited, OrderCreated, OrderEvent, OrderShipped, created, record};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

#[derive(Debug)]
struct MailError;

impl fmt::Display for MailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mail server said no")
    }
}

impl std::error::Error for MailError {}

#[handler(group = "mail", retries = 5, timeout_ms = 100, concurrency = 2)]
async fn send_receipt(event: &OrderCreated, State(prefix): State<String>) -> Result<(), MailError> {
    assert_eq!(format!("{prefix}{}", event.customer_id), "mail to ada");
    Err(MailError)
}

#[handler(manual, name = "orders.audit")]
async fn audit(_event: Audited, _meta: &Metadata, Attempt(_): Attempt) {}

#[test]
fn a_definition_says_what_the_attribute_says() {
    let definition = send_receipt::definition();
    assert_eq!(definition.name, "send_receipt");
    assert_eq!(definition.group, Some("mail"));
    assert_eq!(definition.options.retries, Some(5));
    assert_eq!(definition.options.timeout, Some(Duration::from_millis(100)));
    assert_eq!(definition.options.concurrency, Some(2));
    assert_eq!(definition.events.event_types(), ["OrderCreated"]);
    let declared = include_str!("handlers.rs").lines().nth(definition.source.line as usize - 1);
    assert!(declared.is_some_and(|line| line.starts_with("async fn send_receipt")));

    let definition = audit::definition();
    assert_eq!(definition.name, "orders.audit");
    assert_eq!(definition.group, None);
    assert_eq!(definition.events.event_types(), ["AccountOpened", "OrderCreated"]);
}

#[test]
fn a_bus_is_told_the_options_and_the_group() {
    let bus = InMemoryEventBus::new();
    let state = StateMap::new().with(String::new());
    let subscription = bus.subscribe_handler::<send_receipt>(&state).unwrap();
    assert_eq!(*subscription.group(), "mail");
    let subscribed = bus.subscribers();
    assert_eq!(subscribed[0].subscriber().options(), send_receipt::definition().options);
}

#[tokio::test]
async fn the_function_is_still_a_function() {
    let outcome = send_receipt(&created("ada"), State("mail to ".into())).await;
    assert!(outcome.is_err());
}

#[test]
fn all_but_manual_handlers_are_registered() {
    let mut names: Vec<_> =
        inventory::iter::<HandlerRegistration>().map(|registration| (registration.0)().name).collect();
    names.sort_unstable();
    assert_eq!(names, ["every", "send_receipt"]);
}

#[handler]
async fn every(event: &RecordedEvent, State(log): State<Log>) {
    note(&log, format!("every {}", event.event_type()));
}

#[handler(manual)]
async fn of_order(event: &OrderEvent, State(log): State<Log>) -> Result<(), HandlerError> {
    match event {
        OrderEvent::OrderCreated(_) => note(&log, "created"),
        OrderEvent::OrderShipped(OrderShipped) => note(&log, "shipped"),
    }
    Ok(())
}

async fn run<H: Handler>(state: &StateMap, event: RecordedEvent) -> Outcome {
    let bus = InMemoryEventBus::new();
    bus.subscribe_handler::<H>(state).unwrap();
    let subscribed = bus.subscribers().remove(0);
    let (group, subscriber) = (subscribed.group().clone(), subscribed.subscriber().clone());
    let delivery = Delivery::new(event, group.clone()).with_attempt(2);
    dispatch(
        &[Arc::new(ActiveSubscriber::new(group, subscriber))],
        &delivery,
        &DeliveryAttempts::default(),
        &Limits::default(),
        &eventbus::clock::SharedClock::SYSTEM,
        &eventbus::delivery::handler_span,
    )
    .await
}

#[tokio::test]
async fn a_handler_gets_the_events_it_asks_for() {
    let log = Log::default();
    let state = StateMap::new().with(log.clone());
    let shipped = || record("order.shipped", "{}");
    let foreign = || record("AccountOpened", r#"{"limit":1}"#);
    assert!(matches!(run::<of_order>(&state, shipped()).await, Outcome::Handled { .. }));
    assert!(matches!(run::<of_order>(&state, foreign()).await, Outcome::Skipped));
    assert!(matches!(run::<every>(&state, foreign()).await, Outcome::Handled { .. }));
    assert!(matches!(run::<audit>(&state, foreign()).await, Outcome::Handled { .. }));
    assert_eq!(*log.lock().unwrap(), ["shipped", "every AccountOpened"]);
}

#[tokio::test]
async fn errors_are_retried_and_undecodable_events_are_not() {
    let state = StateMap::new().with("mail to ".to_owned());
    let created = record("OrderCreated", r#"{"customer_id":"ada"}"#);
    let garbage = record("OrderCreated", r#"{"customer_id":1}"#);
    for (event, kind) in [(created, HandlerErrorKind::Retry), (garbage, HandlerErrorKind::Undecodable)] {
        let Outcome::Failed { failures, .. } = run::<send_receipt>(&state, event).await else {
            panic!("it failed");
        };
        assert_eq!(failures[0].handler, "send_receipt");
        assert_eq!(failures[0].error.kind(), kind);
    }
}
