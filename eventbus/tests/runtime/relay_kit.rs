//! A store, a bus that loses data, and helpers of the tests of relays.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore, Name, Position,
    port::{ReadFeed, RelayTarget},
    prelude::*,
    relay::{PublishRange, PublishedPosition},
    testkit::LossyBus,
};
use futures_util::TryStreamExt;

use crate::{
    orders::{Order, created},
    wait::until,
};

pub const LEASE: Duration = Duration::from_secs(2);
pub static ROLE: Name = Name::from_static("relay:memory");
pub static AUDIT: Name = Name::from_static("audit");
pub static MAILS: Name = Name::from_static("mails");

#[handler(manual, group = "audit")]
pub async fn audit(_event: &RecordedEvent) {}

pub async fn append(store: &InMemoryEventStore, events: usize) -> Position {
    let orders = AggregateRepository::<Order>::new(store.clone());
    let mut order = orders.create_new(AggregateId::new());
    order.record(vec![created("ada", 1.0); events]);
    orders.save(&mut order).await.unwrap().position.unwrap()
}

pub fn builder(store: &InMemoryEventStore, bus: &LossyBus) -> eventbus::app::AppBuilder {
    App::builder().store(store.clone()).bus(bus.clone()).lease(LEASE).wait_timeout(Duration::from_secs(20))
}

pub async fn app(store: &InMemoryEventStore, bus: &LossyBus) -> App {
    builder(store, bus).start().await.unwrap()
}

/// Publishes the events of a store behind its record through a position, as a different relay would.
pub async fn publish(store: &InMemoryEventStore, bus: &LossyBus, through: u64) {
    let own = store.store_id().await.unwrap();
    let after = bus.published_position(own).await.unwrap().unwrap();
    let events: Vec<_> = store.read_all(after.position).try_collect().await.unwrap();
    let events = &events[..usize::try_from(through - after.position.get()).unwrap()];
    let range = PublishRange { after, through: through.into(), events };
    let outcome = bus.publish_range(own, range).await.unwrap();
    assert!(matches!(outcome, eventbus::relay::RangeOutcome::Published(_)), "{outcome:?}");
}

/// Gives the bus a record of a store, at the start, as a first relay would.
pub async fn begin(store: &InMemoryEventStore, bus: &LossyBus) {
    set_record(store, bus, PublishedPosition::default()).await;
}

/// Sets the record of a store.
pub async fn set_record(store: &InMemoryEventStore, bus: &LossyBus, to: PublishedPosition) {
    let own = store.store_id().await.unwrap();
    let from = bus.published_position(own).await.unwrap();
    assert_eq!(bus.set_position(own, from, to).await.unwrap(), to);
}

pub async fn position(store: &InMemoryEventStore, bus: &LossyBus) -> u64 {
    bus.position(store.store_id().await.unwrap()).map_or(0, Position::get)
}

pub async fn until_at(store: &InMemoryEventStore, bus: &LossyBus, wanted: u64) {
    until("the bus is at the position", async || position(store, bus).await == wanted).await;
}

pub fn all(through: u64) -> Vec<u64> {
    (1..=through).collect()
}
