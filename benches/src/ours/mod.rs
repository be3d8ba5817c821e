//! This project, as an application uses it.

mod bus;
mod orders;
mod reacting;
mod rebuilds;

pub use self::{
    bus::Bus,
    orders::StoredOrders,
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds},
};
