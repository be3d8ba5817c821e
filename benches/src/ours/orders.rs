use std::sync::Arc;

use eventbus::{
    Aggregate, AggregateId, AggregateRepository, AggregateRoot, Apply, IntoEvents, Position, Result,
    port::{EventStore, FeedFilter, ReadFeed as _},
};
use uuid::Uuid;

use crate::{
    order::{ItemAdded, Order, SnapshotOrder},
    workload::{HeldOrder, Orders, SnapshotOrders},
};

/// Orders in an event store; `A` is the state that a load returns.
pub struct StoredOrders<S, A: Aggregate + Apply = Order> {
    pub store: Arc<S>,
    repository: AggregateRepository<A>,
}

impl<S: EventStore> StoredOrders<S> {
    pub fn new(store: S) -> Self {
        Self::of_aggregate(store)
    }
}

impl<S: EventStore> StoredOrders<S, SnapshotOrder> {
    pub fn with_snapshots(store: S) -> Self {
        Self::of_aggregate(store)
    }
}

impl<S: EventStore, A: Aggregate + Apply> StoredOrders<S, A> {
    fn of_aggregate(store: S) -> Self {
        let store = Arc::new(store);
        Self { repository: AggregateRepository::new(Arc::clone(&store)), store }
    }
}

impl<S, A: Aggregate + Apply> Clone for StoredOrders<S, A> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), repository: self.repository.clone() }
    }
}

pub struct StoredOrder<A: Aggregate + Apply> {
    id: Uuid,
    root: AggregateRoot<A>,
}

impl<A: Aggregate + Apply + AsRef<Order>> HeldOrder for StoredOrder<A> {
    fn id(&self) -> Uuid {
        self.id
    }

    fn order(&self) -> &Order {
        self.root.state().as_ref()
    }
}

impl<S: EventStore, A: Aggregate<Id = AggregateId> + Apply + AsRef<Order>> Orders for StoredOrders<S, A>
where
    ItemAdded: IntoEvents<A::Event>,
{
    type Held = StoredOrder<A>;

    fn create(&self) -> StoredOrder<A> {
        let id = Uuid::now_v7();
        StoredOrder { id, root: self.repository.create_new(id.into()) }
    }

    async fn save(&self, StoredOrder { root, .. }: &mut StoredOrder<A>, items: Vec<ItemAdded>) -> Result<()> {
        root.record(items);
        self.repository.save(root).await?;
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder<A>> {
        Ok(StoredOrder { id, root: self.repository.load(&id.into()).await? })
    }

    async fn count_events(&self) -> Result<u64> {
        let head = self.store.head().await?;
        Ok(self.store.count_events(Position::default(), head, &FeedFilter::all()).await?)
    }
}

impl<S: EventStore> SnapshotOrders for StoredOrders<S, SnapshotOrder> {
    async fn take_snapshot(&self, id: Uuid) -> Result<()> {
        self.repository.snapshot(&id.into()).await?;
        Ok(())
    }
}
