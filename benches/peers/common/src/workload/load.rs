//! Loading orders.

use std::time::Instant;

use async_trait::async_trait;
use uuid::Uuid;

use super::save::{HeldOrder as _, Orders, QUICK_DIVISOR, SnapshotOrders, fill};
use crate::{
    Result,
    bench::{Bench, Round, expect},
    order::{ItemAdded, order_of},
    worker::WorkerArgs,
};

/// Events of an order.
pub const EVENTS: u64 = 100;
const ORDERS: usize = 2_000;

/// Callers that load each of their orders and save one event to it. After n rounds an order has n events more.
pub struct LoadAndSave<O: Orders> {
    orders: O,
    /// The orders of each caller.
    ids: Vec<Vec<Uuid>>,
    rounds: u64,
}

impl<O: Orders> LoadAndSave<O> {
    pub async fn open(orders: O, args: &WorkerArgs) -> Result<Self> {
        let ids = fill(&orders, if args.quick { ORDERS / QUICK_DIVISOR } else { ORDERS }, EVENTS).await?;
        let ids = ids.chunks(ids.len().div_ceil(args.callers)).map(<[_]>::to_vec).collect();
        Ok(Self { orders, ids, rounds: 0 })
    }
}

#[async_trait]
impl<O: Orders> Bench for LoadAndSave<O> {
    async fn run(&mut self) -> Result<Round> {
        self.rounds += 1;
        Round::of(self.ids.iter().map(|ids| load_and_save(self.orders.clone(), ids.clone()))).await
    }

    async fn check(&mut self) -> Result<()> {
        let orders = self.ids.iter().map(|ids| ids.len() as u64).sum::<u64>();
        expect("events in the store", &self.orders.count_events().await?, &(orders * (EVENTS + self.rounds)))?;
        let last = self.orders.load(self.ids[0][0]).await?;
        expect("an order", last.order(), &order_of((0..EVENTS + self.rounds).map(ItemAdded::new)))
    }
}

async fn load_and_save<O: Orders>(orders: O, ids: Vec<Uuid>) -> Result<Round> {
    let mut round = Round::default();
    for id in ids {
        let start = Instant::now();
        orders.add_next(id).await?;
        round.add(start.elapsed());
    }
    Ok(round)
}

const LONG_EVENTS: u64 = 10_000;
const LONG_LOADS: usize = 20;
const SHORT_EVENTS: u64 = 10;
const SHORT_LOADS: usize = 4_000;

/// One caller that loads one order after the other, again and again.
pub struct Load<O: Orders> {
    orders: O,
    ids: Vec<Uuid>,
    events: u64,
    loads: usize,
}

impl<O: Orders> Load<O> {
    async fn of(orders: O, events: u64, loads: usize, args: &WorkerArgs) -> Result<Self> {
        let ids = fill(&orders, 1, events).await?;
        Ok(Self::stored(orders, ids, events, loads, args))
    }

    fn stored(orders: O, ids: Vec<Uuid>, events: u64, loads: usize, args: &WorkerArgs) -> Self {
        Self { orders, ids, events, loads: if args.quick { loads / QUICK_DIVISOR } else { loads } }
    }

    /// Loads these orders, which have [`EVENTS`] each.
    pub fn some(orders: O, ids: Vec<Uuid>, args: &WorkerArgs) -> Self {
        Self::stored(orders, ids, EVENTS, SHORT_LOADS, args)
    }

    pub async fn short(orders: O, args: &WorkerArgs) -> Result<Self> {
        Self::of(orders, SHORT_EVENTS, SHORT_LOADS, args).await
    }

    pub async fn long(orders: O, args: &WorkerArgs) -> Result<Self> {
        Self::of(orders, LONG_EVENTS, LONG_LOADS, args).await
    }
}

impl<O: SnapshotOrders> Load<O> {
    /// A long order of which all events but the last few are in its snapshot.
    pub async fn from_snapshot(orders: O, args: &WorkerArgs) -> Result<Self> {
        let mut load = Self::of(orders, LONG_EVENTS - SHORT_EVENTS, SHORT_LOADS, args).await?;
        load.orders.take_snapshot(load.ids[0]).await?;
        let mut held = load.orders.load(load.ids[0]).await?;
        load.orders.save(&mut held, (load.events..LONG_EVENTS).map(ItemAdded::new).collect()).await?;
        load.events = LONG_EVENTS;
        Ok(load)
    }
}

#[async_trait]
impl<O: Orders> Bench for Load<O> {
    async fn run(&mut self) -> Result<Round> {
        let mut round = Round::default();
        for &id in self.ids.iter().cycle().take(self.loads) {
            let start = Instant::now();
            let held = self.orders.load(id).await?;
            round.add(start.elapsed());
            expect("items of the order", &held.order().items, &self.events)?;
        }
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        let held = self.orders.load(self.ids[0]).await?;
        expect("the order", held.order(), &order_of((0..self.events).map(ItemAdded::new)))
    }
}
