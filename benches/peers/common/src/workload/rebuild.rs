//! Rebuilding a projection: the total of each order.

use async_trait::async_trait;

use super::save::{Orders, QUICK_DIVISOR, fill};
use crate::{
    Result,
    bench::{Bench, Round, expect},
    order::{ItemAdded, Order, order_of},
    worker::WorkerArgs,
};

const EVENTS: usize = 1_000_000;
const EVENTS_PER_ORDER: usize = 100;

/// A projection of orders.
#[async_trait]
pub trait Rebuilds: Send + Sync + 'static {
    type Orders: Orders;

    fn orders(&self) -> &Self::Orders;

    /// Begins, after the orders are saved.
    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<()>;

    /// Returns the number of orders, and the sum of all totals.
    async fn sum(&self) -> Result<(u64, Order)>;
}

pub struct Rebuild<R> {
    projection: R,
    events: u64,
    /// The totals; unknown if the orders were in the database already.
    due: Option<(u64, Order)>,
}

impl<R: Rebuilds> Rebuild<R> {
    pub async fn open(mut projection: R, args: &WorkerArgs) -> Result<Self> {
        let orders = EVENTS / EVENTS_PER_ORDER / if args.quick { 2 * QUICK_DIVISOR } else { 1 };
        fill(projection.orders(), orders, EVENTS_PER_ORDER as u64).await?;
        let one = order_of((0..EVENTS_PER_ORDER as u64).map(ItemAdded::new));
        let orders = orders as u64;
        let all = Order { items: one.items * orders, cents: one.cents * orders };
        projection.start().await?;
        Ok(Self { projection, events: all.items, due: Some((orders, all)) })
    }

    /// Rebuilds from the orders that are in the database already.
    pub async fn of_stored(mut projection: R) -> Result<Self> {
        let events = projection.orders().count_events().await?;
        projection.start().await?;
        Ok(Self { projection, events, due: None })
    }
}

#[async_trait]
impl<R: Rebuilds> Bench for Rebuild<R> {
    async fn run(&mut self) -> Result<Round> {
        self.projection.rebuild().await?;
        Ok(Round { operations: self.events, times: Vec::new() })
    }

    async fn check(&mut self) -> Result<()> {
        let totals = self.projection.sum().await?;
        expect("the items of all orders", &totals.1.items, &self.events)?;
        self.due.as_ref().map_or(Ok(()), |due| expect("the totals", &totals, due))
    }
}
