//! Minimal code for these events, as a careful author would write it on the same clients.
//!
//! It does what its workload needs and no more: no retries, no group commit, no order of the feed under concurrent
//! writers, no metadata for handlers.

mod bus;
mod postgres;
mod reacting;
mod rebuilds;
mod sqlite;

pub use self::{
    bus::Bus,
    postgres::{ORDER_TOTALS, PgOrders, SUM_TOTALS, UPSERT_TOTAL},
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds},
    sqlite::SqliteOrders,
};
use crate::order::Order;
use uuid::Uuid;

/// An order as its caller holds it.
#[derive(Debug)]
pub struct HeldOrder {
    pub id: Uuid,
    /// The number of its stored events.
    pub version: i64,
    pub order: Order,
}

impl HeldOrder {
    fn create() -> Self {
        Self { id: Uuid::now_v7(), version: 0, order: Order::default() }
    }
}
