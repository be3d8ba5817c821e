//! Subscribing to a bus with types.

use std::sync::{Arc, Mutex};

use eventbus::{
    InMemoryEventBus, ProjectionHandle, Version,
    handler::{EventHandler, StateMap},
    port::EventBus,
    prelude::*,
};

use crate::{
    orders::{OrderCreated, OrderEvent, OrderShipped, OrderStatistics, created},
    wait::until,
};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

struct Auditor(Log);

impl EventHandler<RecordedEvent> for Auditor {
    async fn handle(&self, event: RecordedEvent) -> Result<(), HandlerError> {
        note(&self.0, format!("audit {}", event.event_type()));
        Ok(())
    }
}

#[handler(manual)]
async fn receipt(event: &OrderCreated, State(log): State<Log>) {
    note(&log, format!("receipt {}", event.customer_id));
}

fn story() -> Vec<RecordedEvent> {
    let id = AggregateId::new();
    vec![
        RecordedEvent::from_event(&created("ada", 10.0), id.clone(), Version::FIRST).unwrap(),
        RecordedEvent::from_event(&OrderShipped { tracking_number: "T1".into() }, id, Version::new(2)).unwrap(),
    ]
}

async fn consume(bus: &InMemoryEventBus, events: u64) {
    let consumer = bus.start_consuming_in_background();
    until("the events are consumed", async || bus.stats().events_consumed >= events).await;
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
}

#[tokio::test]
async fn closures_values_and_handlers_get_what_they_ask_for() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let by_closure = log.clone();
    bus.subscribe(move |event: Envelope<OrderShipped>| {
        let log = by_closure.clone();
        async move { note(&log, format!("shipped {} v{}", event.tracking_number, event.metadata().version())) }
    });
    let any = log.clone();
    bus.subscribe::<OrderEvent>(move |event: OrderEvent| {
        let log = any.clone();
        async move {
            note(&log, if matches!(event, OrderEvent::OrderCreated(_)) { "any created" } else { "any shipped" });
        }
    });
    bus.subscribe_to_all(Auditor(log.clone()));
    bus.subscribe_handler::<receipt>(&StateMap::new().with(log.clone())).unwrap();
    bus.publish(&story()).await.unwrap();
    consume(&bus, 2).await;
    let expected =
        ["any created", "receipt ada", "audit OrderCreated", "shipped T1 v2", "any shipped", "audit OrderShipped"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[tokio::test]
async fn counts_are_the_tutorials() {
    let bus = InMemoryEventBus::new();
    bus.subscribe(|_: OrderCreated| async {});
    bus.subscribe_all(&ProjectionHandle::new(OrderStatistics::default()));
    let audit = bus.subscribe_to_all(|_: RecordedEvent| async {});
    assert_eq!(bus.subscriber_count(), 3);
    assert_eq!((bus.subscriber_count_of::<OrderCreated>(), bus.subscriber_count_of::<OrderShipped>()), (2, 1));
    assert_eq!(bus.wildcard_subscriber_count(), 1);
    assert!(audit.cancel() && !audit.cancel());
    assert_eq!(bus.wildcard_subscriber_count(), 0);
}

#[tokio::test]
async fn a_missing_state_is_found_when_subscribing() {
    let bus = InMemoryEventBus::new();
    let error = bus.subscribe_handler::<receipt>(&StateMap::new()).unwrap_err();
    assert!(error.to_string().contains("`receipt` (") && error.to_string().contains("takes `State<"), "{error}");
    assert_eq!(bus.subscriber_count(), 0);
}

#[tokio::test]
async fn a_projection_on_a_bus_counts_what_it_gets() {
    let bus = InMemoryEventBus::new();
    let statistics = ProjectionHandle::new(OrderStatistics::default());
    bus.subscribe_all(&statistics);
    bus.publish(&story()).await.unwrap();
    consume(&bus, 2).await;
    assert_eq!(*statistics.read().await, OrderStatistics { orders: 1, revenue: 10.0, shipped: 1 });
}

#[tokio::test]
async fn an_undecodable_payload_fails_the_delivery_and_nothing_else() {
    let bus = InMemoryEventBus::new();
    bus.subscribe(|_: OrderShipped| async {});
    let metadata = story()[1].metadata().clone();
    let broken = RecordedEvent::new(metadata, r#"{"tracking_number":7}"#);
    bus.publish(&[broken]).await.unwrap();
    bus.publish(&story()).await.unwrap();
    consume(&bus, 3).await;
    let stats = bus.stats();
    assert_eq!((stats.events_processed_failed, stats.events_processed_success, stats.events_skipped), (1, 1, 1));
    assert_eq!(bus.stream_info().await.dlq_messages, 1);
}
