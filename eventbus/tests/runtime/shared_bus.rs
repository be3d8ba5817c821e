//! One in-process bus that several apps share.

use std::sync::{Arc, Mutex};

use crate::{
    orders::{Order, OrderCreated, created},
    wait::until,
};
use eventbus::{
    InMemoryEventBus, InMemoryEventStore,
    app::AppBuilder,
    port::{EventBus, PublishError},
    prelude::*,
    repository::Publication,
};

type Log = Arc<Mutex<Vec<String>>>;

#[handler(manual, stream = "orders")]
async fn note_customer(event: &OrderCreated, State(log): State<Log>) {
    log.lock().unwrap().push(event.customer_id.clone());
}

#[handler(manual, group = "others")]
async fn note_elsewhere(event: &OrderCreated, State(log): State<Log>) {
    log.lock().unwrap().push(format!("{} elsewhere", event.customer_id));
}

fn builder(bus: &InMemoryEventBus, store: &InMemoryEventStore, log: &Log) -> AppBuilder {
    let builder = App::builder().bus(bus.clone()).consume("orders", bus.clone()).store(store.clone()).share_stream();
    builder.state(log.clone()).handler::<note_customer>()
}

async fn app(bus: &InMemoryEventBus, store: &InMemoryEventStore, log: &Log) -> App {
    builder(bus, store, log).start().await.unwrap()
}

async fn save(orders: &AggregateRepository<Order>, customer: &str) -> Publication {
    let mut order = orders.create_new(AggregateId::new());
    order.record(created(customer, 1.0));
    orders.save(&mut order).await.unwrap().publication
}

async fn stopped(bus: &InMemoryEventBus) {
    until("the former app stopped", async || bus.subscriber_count() == 0).await;
}

#[tokio::test]
async fn the_progress_of_one_store_says_nothing_about_another() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let (first, second) = (InMemoryEventStore::new(), InMemoryEventStore::new());
    let of_first = app(&bus, &first, &log).await;
    for customer in ["a", "b", "c"] {
        save(&of_first.repository(), customer).await;
    }
    of_first.settled().await.unwrap();
    drop(of_first);
    stopped(&bus).await;

    let of_second = app(&bus, &second, &log).await;
    save(&of_second.repository(), "d").await;
    of_second.settled().await.unwrap();
    save(&of_second.repository(), "e").await;
    of_second.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn what_a_relay_publishes_is_not_published_by_hand_too() {
    let (bus, store, log) = (InMemoryEventBus::new(), InMemoryEventStore::new(), Log::default());
    let app = app(&bus, &store, &log).await;
    let orders = AggregateRepository::<Order>::new(store.clone()).publish_to(bus.clone());
    let publication = save(&orders, "a").await;
    assert!(
        matches!(
            &publication,
            Publication::Failed(PublishError::OwnedByRelay { destination }) if destination == "memory"
        ),
        "{publication:?}"
    );
    app.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a"], "saved, and published once");
    let elsewhere = RecordedEvent::from_event(&created("b", 1.0), AggregateId::new(), 1.into()).unwrap();
    bus.publish(&[elsewhere]).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a", "b"], "what no relay can know is");
}

#[tokio::test]
async fn handlers_are_served_by_whoever_consumes() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let consumer = bus.start_consuming_in_background();
    until("the bus consumes", async || bus.is_consuming()).await;
    let app = app(&bus, &InMemoryEventStore::new(), &log).await;
    save(&app.repository(), "a").await;
    app.settled().await.unwrap();
    bus.stop_consuming().await;
    consumer.await.unwrap().unwrap();
    save(&app.repository(), "b").await;
    app.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn consuming_can_be_stopped_and_started_by_hand() {
    let (bus, log) = (InMemoryEventBus::new(), Log::default());
    let app = app(&bus, &InMemoryEventStore::new(), &log).await;
    until("the app consumes", async || bus.is_consuming()).await;
    bus.stop_consuming().await;
    save(&app.repository(), "a").await;
    bus.start_consuming_in_background();
    app.settled().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn apps_that_feed_nothing_share_the_bus_with_one_that_does() {
    let (bus, store, log) = (InMemoryEventBus::new(), InMemoryEventStore::new(), Log::default());
    let feeding = app(&bus, &store, &log).await;
    let consuming = App::builder().bus(bus.clone()).state(log.clone()).handler::<note_elsewhere>();
    let consuming = consuming.start().await.unwrap();
    let saving = App::builder().store(store).without_relay().start().await.unwrap();
    save(&saving.repository(), "a").await;
    feeding.settled().await.unwrap();
    until("both groups have handled it", async || log.lock().unwrap().len() == 2).await;
    consuming.settled().await.unwrap();
    let mut noted = log.lock().unwrap().clone();
    noted.sort();
    assert_eq!(noted, ["a", "a elsewhere"]);
}
