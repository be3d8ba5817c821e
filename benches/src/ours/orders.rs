use std::sync::Arc;

use eventbus::{
    AggregateRepository, AggregateRoot, Position, Result,
    port::{EventStore, FeedFilter, ReadFeed as _},
};
use uuid::Uuid;

use crate::{
    order::{ItemAdded, Order},
    workload::{HeldOrder, Orders},
};

/// Orders in an event store.
pub struct StoredOrders<S> {
    pub store: Arc<S>,
    repository: AggregateRepository<Order>,
}

impl<S: EventStore> StoredOrders<S> {
    pub fn new(store: S) -> Self {
        let store = Arc::new(store);
        Self { repository: AggregateRepository::new(Arc::clone(&store)), store }
    }
}

impl<S> Clone for StoredOrders<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), repository: self.repository.clone() }
    }
}

pub struct StoredOrder {
    id: Uuid,
    root: AggregateRoot<Order>,
}

impl HeldOrder for StoredOrder {
    fn id(&self) -> Uuid {
        self.id
    }

    fn order(&self) -> &Order {
        self.root.state()
    }
}

impl<S: EventStore> Orders for StoredOrders<S> {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        let id = Uuid::now_v7();
        StoredOrder { id, root: self.repository.create(id.into()) }
    }

    async fn save(&self, StoredOrder { root, .. }: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        root.record(items);
        self.repository.save(root).await?;
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        Ok(StoredOrder { id, root: self.repository.load(&id.into()).await? })
    }

    async fn count_events(&self) -> Result<u64> {
        let head = self.store.head().await?;
        Ok(self.store.count_events(Position::default(), head, &FeedFilter::all()).await?)
    }
}
