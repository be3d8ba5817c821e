//! Group commit as a careful author would write it: saves that come while a statement runs share the next one.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eventbus::Result;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{sync::oneshot, task::yield_now};
use uuid::Uuid;

use super::{StoredOrder, grouped_save::GroupedSave, postgres::PgOrders};
use crate::{order::ItemAdded, workload::Orders};

const SAVES_MAX: usize = 256;

/// Orders in the tables of [`PgOrders`]. One statement runs at a time: that of a lone caller in its own task, those of
/// groups in a spawned one.
#[derive(Clone)]
pub struct GroupedOrders(Arc<Group>);

struct Group {
    orders: PgOrders,
    /// Of the statements for groups, one at a time.
    connection: tokio::sync::Mutex<PgConnection>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Set while there is a [`Turn`], or a task that takes it.
    is_busy: bool,
    waiting: VecDeque<GroupedSave>,
}

/// The right to run statements. Dropped, it passes to a spawned task if saves wait.
struct Turn(Arc<Group>);

impl GroupedOrders {
    pub async fn open(url: &str) -> Result<Self> {
        let orders = PgOrders::open(url).await?;
        let mut connection = PgConnection::connect(url).await?;
        // the server keeps the plans that it makes while the tables are small
        connection.execute("SET enable_seqscan = off").await?;
        Ok(Self(Arc::new(Group { orders, connection: connection.into(), queue: Mutex::default() })))
    }

    /// Returns `false` if the order has other events than its caller knows.
    async fn insert(&self, held: &StoredOrder, items: &[ItemAdded]) -> Result<bool> {
        if let Some(_turn) = self.try_take_turn() {
            return Ok(self.0.orders.insert(held, items).await? > 0);
        }
        let (answer, answered) = oneshot::channel();
        self.enqueue(GroupedSave::new(held, items, answer)?);
        Ok(answered.await??)
    }

    fn try_take_turn(&self) -> Option<Turn> {
        let mut queue = self.0.lock();
        (!mem::replace(&mut queue.is_busy, true)).then(|| Turn(Arc::clone(&self.0)))
    }

    fn enqueue(&self, save: GroupedSave) {
        let mut queue = self.0.lock();
        queue.waiting.push_back(save);
        // the turn may have ended since it was asked for
        if !mem::replace(&mut queue.is_busy, true) {
            Turn::spawn(&self.0);
        }
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no more saves come: callers that just got their answers may save again.
    async fn settle(&self) {
        let mut before = None;
        loop {
            let waiting = self.lock().waiting.len();
            if before.replace(waiting) == Some(waiting) {
                return;
            }
            yield_now().await;
        }
    }

    /// Takes the saves of the next statement, one of each order: a statement does not see the rows that it writes.
    fn take_waiting(&self) -> Vec<GroupedSave> {
        let (mut taken, mut ids) = (Vec::new(), HashSet::new());
        let mut queue = self.lock();
        for save in mem::take(&mut queue.waiting) {
            if taken.len() < SAVES_MAX && ids.insert(save.order()) {
                taken.push(save);
            } else {
                queue.waiting.push_back(save);
            }
        }
        taken
    }
}

impl Turn {
    /// Spawns a task with the turn, which it takes only once it runs: a runtime that shuts down drops the task before, and
    /// the turn must not be passed on then.
    fn spawn(group: &Arc<Group>) {
        let group = Arc::clone(group);
        tokio::spawn(async move { Self(group).save_waiting().await });
    }

    async fn save_waiting(self) {
        loop {
            self.0.settle().await;
            let saves = self.0.take_waiting();
            if saves.is_empty() {
                return;
            }
            GroupedSave::execute(saves, &mut *self.0.connection.lock().await).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_busy = !queue.waiting.is_empty();
        if queue.is_busy {
            Self::spawn(&self.0);
        }
    }
}

impl Orders for GroupedOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder::create()
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        if !self.insert(held, &items).await? {
            return Err(format!("the order {} has other events", held.id).into());
        }
        held.version += items.len() as i64;
        items.iter().for_each(|item| held.order.add(item));
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        self.0.orders.load(id).await
    }

    async fn count_events(&self) -> Result<u64> {
        self.0.orders.count_events().await
    }
}
