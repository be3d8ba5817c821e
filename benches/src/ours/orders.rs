use std::sync::Arc;

use eventbus::{
    AggregateRepository, AggregateRoot, Position, Result,
    port::{EventStore, FeedFilter, ReadFeed as _},
};
use uuid::Uuid;

use crate::{
    order::{ItemAdded, Order},
    workload::Orders,
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

impl<S: EventStore> Orders for StoredOrders<S> {
    type Held = (Uuid, AggregateRoot<Order>);

    fn create(&self) -> Self::Held {
        let id = Uuid::now_v7();
        (id, self.repository.create(id.into()))
    }

    fn id((id, _): &Self::Held) -> Uuid {
        *id
    }

    fn order((_, root): &Self::Held) -> &Order {
        root.state()
    }

    async fn save(&self, (_, root): &mut Self::Held, items: Vec<ItemAdded>) -> Result<()> {
        root.record(items);
        self.repository.save(root).await?;
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<Self::Held> {
        Ok((id, self.repository.load(&id.into()).await?))
    }

    async fn count_events(&self) -> Result<u64> {
        let head = self.store.head().await?;
        Ok(self.store.count_events(Position::default(), head, &FeedFilter::all()).await?)
    }
}
