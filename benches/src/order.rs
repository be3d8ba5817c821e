//! The event and the aggregate of all workloads, and the aggregate with snapshots.

pub use bench_common::order::*;
use eventbus::prelude::*;

/// An order with snapshots, which are taken by hand only.
#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(fold_of = Order, events(ItemAdded), snapshot(every = 1_000_000_000))]
pub struct SnapshotOrder(Order);

impl Apply for SnapshotOrder {
    fn apply(&mut self, SnapshotOrderEvent::ItemAdded(item): &SnapshotOrderEvent) {
        self.0.add(item);
    }
}

/// The order in the state of an aggregate.
impl AsRef<Order> for SnapshotOrder {
    fn as_ref(&self) -> &Order {
        &self.0
    }
}
