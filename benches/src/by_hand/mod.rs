//! Minimal code for these events, as a careful author would write it on the same clients.
//!
//! It does what its workload needs and no more: no retries, no order of the feed under concurrent writers, no metadata for
//! handlers, and no group commit but in [`GroupedOrders`] and
//! [`GroupedSqliteOrders`].

mod bus;
mod courses;
mod grouped;
mod grouped_save;
mod grouped_sqlite;
mod postgres;
mod reacting;
mod rebuilds;
mod sqlite;

use uuid::Uuid;

pub use self::{
    bus::Bus,
    courses::PgCourses,
    grouped::GroupedOrders,
    grouped_sqlite::GroupedSqliteOrders,
    postgres::{ORDER_TOTALS, PgOrders, PgSnapshotOrders, UPSERT_TOTAL, UPSERT_TOTALS, sum_totals},
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds},
    sqlite::{SqliteOrders, SqliteRebuilds},
};
use crate::{order::Order, workload::HeldOrder};

/// An order as its caller holds it.
pub struct StoredOrder {
    id: Uuid,
    /// The number of its stored events.
    version: i64,
    order: Order,
}

impl StoredOrder {
    fn create() -> Self {
        Self { id: Uuid::now_v7(), version: 0, order: Order::default() }
    }
}

impl HeldOrder for StoredOrder {
    fn id(&self) -> Uuid {
        self.id
    }

    fn order(&self) -> &Order {
        &self.order
    }
}
