//! Saving events to orders.

use std::time::Instant;

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Result,
    bench::{Bench, Round, expect},
    items::Items,
    order::{ItemAdded, Order, order_of},
    worker::WorkerArgs,
};

/// Events of an order.
const EVENTS_PER_ORDER: u64 = 10;
const SAVES_PER_ROUND: usize = 32_000;
/// A lone caller waits for each commit.
const LONE_SAVES_PER_ROUND: usize = 4_000;
/// A quick round has so many times fewer operations.
pub const QUICK_DIVISOR: usize = 4;

/// An order as its caller holds it, with the version that the next save expects.
pub trait HeldOrder: Send {
    fn id(&self) -> Uuid;
    fn order(&self) -> &Order;
}

/// Orders in a database.
pub trait Orders: Clone + Send + Sync + 'static {
    type Held: HeldOrder;

    fn create(&self) -> Self::Held;

    /// Saves items, unless the order has changed in the database.
    fn save(&self, held: &mut Self::Held, items: Vec<ItemAdded>) -> impl Future<Output = Result<()>> + Send;
    fn load(&self, id: Uuid) -> impl Future<Output = Result<Self::Held>> + Send;

    /// Loads an order that was saved just now, with its last events.
    fn load_saved(&self, held: &Self::Held) -> impl Future<Output = Result<Self::Held>> + Send {
        self.load(held.id())
    }

    /// Loads an order, and saves its next item.
    fn add_next(&self, id: Uuid) -> impl Future<Output = Result<()>> + Send {
        async move {
            let mut held = self.load(id).await?;
            let next = ItemAdded::new(held.order().items);
            self.save(&mut held, vec![next]).await
        }
    }

    fn count_events(&self) -> impl Future<Output = Result<u64>> + Send;
}

/// Orders that are loaded from their snapshots.
pub trait SnapshotOrders: Orders {
    /// Takes a snapshot of an order.
    fn take_snapshot(&self, id: Uuid) -> impl Future<Output = Result<()>> + Send;
}

/// Callers that each save to one order after the other.
pub struct Save<O: Orders> {
    orders: O,
    events_per_save: u64,
    callers: usize,
    saves_per_caller: usize,
    items: Items,
    saved: u64,
    /// Set if other workers save to the database: then its events are the driver's to count.
    is_shared: bool,
}

impl<O: Orders> Save<O> {
    pub fn new(orders: O, events_per_save: u64, items: Items, args: &WorkerArgs) -> Self {
        let saves = if args.callers == 1 { LONE_SAVES_PER_ROUND } else { SAVES_PER_ROUND };
        let saves = if args.quick { saves / QUICK_DIVISOR } else { saves };
        let saves_per_caller = items.operations(saves).div_ceil(args.callers);
        let callers = args.callers;
        Self { orders, events_per_save, callers, saves_per_caller, items, saved: 0, is_shared: false }
    }

    /// Saves to a database with other orders, which may have other workers.
    pub fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }
}

#[async_trait]
impl<O: Orders> Bench for Save<O> {
    async fn run(&mut self) -> Result<Round> {
        let (each, saves) = (self.events_per_save, self.saves_per_caller);
        let callers = (0..self.callers).map(|_| save(self.orders.clone(), self.items.clone(), saves, each));
        let round = Round::of(callers).await?;
        self.saved += round.operations * each;
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        if self.is_shared {
            return Ok(());
        }
        expect("events in the store", &self.orders.count_events().await?, &self.saved)
    }
}

async fn save<O: Orders>(orders: O, items: Items, saves: usize, each: u64) -> Result<Round> {
    let mut round = Round::default();
    let mut held = orders.create();
    for _ in 0..saves {
        if held.order().items == EVENTS_PER_ORDER {
            held = orders.create();
        }
        let first = held.order().items;
        let start = Instant::now();
        orders.save(&mut held, (first..first + each).map(|number| items.item(number)).collect()).await?;
        round.add(start.elapsed());
    }
    let stored = orders.load_saved(&held).await?;
    let due = order_of((0..held.order().items).map(ItemAdded::new));
    expect("an order", stored.order(), &due)?;
    Ok(round)
}

/// Saves orders of `events` each, and returns their ids.
pub async fn fill<O: Orders>(orders: &O, count: usize, events: u64) -> Result<Vec<Uuid>> {
    const WRITERS: usize = 8;
    const EVENTS_PER_SAVE: u64 = 100;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (orders, count) = (orders.clone(), (count + writer) / WRITERS);
        writers.spawn(async move {
            let mut ids = Vec::with_capacity(count);
            for _ in 0..count {
                let mut held = orders.create();
                for first in (0..events).step_by(usize::try_from(EVENTS_PER_SAVE)?) {
                    let items = (first..events.min(first + EVENTS_PER_SAVE)).map(ItemAdded::new).collect();
                    orders.save(&mut held, items).await?;
                }
                ids.push(held.id());
            }
            Ok(ids)
        });
    }
    let ids: Result<Vec<Vec<Uuid>>> = writers.join_all().await.into_iter().collect();
    Ok(ids?.concat())
}
