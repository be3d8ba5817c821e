//! This project, as an application uses it.

mod bus;
mod courses;
mod orders;
mod reacting;
mod rebuilds;

pub use self::{
    bus::Bus,
    courses::TaggedCourses,
    orders::StoredOrders,
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds, TotalBatches, TotalRows},
};
