//! A store, a bus that loses data, and helpers of the tests of relays.

use std::time::Duration;

use eventbus::{
    InMemoryEventStore, Name, Position,
    port::{Floor, Floors, ReadFeed, RelayTarget},
    prelude::*,
    relay::{PublishRange, Publisher, ResyncRequest},
    testkit::LossyBus,
};
use futures_util::TryStreamExt;

use crate::{
    orders::{Order, created},
    wait::until,
};

pub const LEASE: Duration = Duration::from_secs(2);
pub static DESTINATION: Name = Name::from_static("memory");
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
    App::builder().store(store.clone()).bus(bus.clone()).relay_lease(LEASE).wait_timeout(Duration::from_secs(20))
}

pub async fn app(store: &InMemoryEventStore, bus: &LossyBus) -> App {
    builder(store, bus).start().await.unwrap()
}

/// Publishes the events of a store after one position through a second one, as a relay with this epoch would.
pub async fn publish(store: &InMemoryEventStore, bus: &LossyBus, epoch: u64, after: u64, through: u64) {
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch };
    let events: Vec<_> = store.read_all(after.into()).try_collect().await.unwrap();
    let events = &events[..usize::try_from(through - after).unwrap()];
    let range = PublishRange { after: after.into(), through: through.into(), events };
    let outcome = bus.publish_range(publisher, range).await.unwrap();
    assert!(matches!(outcome, eventbus::relay::RangeOutcome::Published(_)), "{outcome:?}");
}

pub async fn adopt(store: &InMemoryEventStore, bus: &LossyBus, epoch: u64) {
    let publisher = Publisher { store: store.store_id().await.unwrap(), epoch };
    bus.resync(publisher, ResyncRequest { floor: Position::START, groups: &[], new_groups: &[], is_shared: true })
        .await
        .unwrap();
}

pub async fn position(store: &InMemoryEventStore, bus: &LossyBus) -> u64 {
    bus.position(store.store_id().await.unwrap()).map_or(0, Position::get)
}

pub async fn until_at(store: &InMemoryEventStore, bus: &LossyBus, wanted: u64) {
    until("the bus is at the position", async || position(store, bus).await == wanted).await;
}

pub async fn floor(store: &InMemoryEventStore, group: &Name) -> Option<u64> {
    let floors = store.floors(&DESTINATION).await.unwrap();
    floors.iter().find(|floor| floor.group == *group).map(|floor| floor.position.get())
}

pub async fn save_floor(store: &InMemoryEventStore, group: &Name, position: u64) {
    let floor = Floor { group: group.clone(), position: position.into() };
    store.save_floors(&DESTINATION, &[floor]).await.unwrap();
}

pub fn all(through: u64) -> Vec<u64> {
    (1..=through).collect()
}

pub fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position().unwrap().get()).collect()
}
