//! This project, as an application uses it.

mod bus;
mod courses;
mod orders;
mod projecting;
mod projections;
mod reacting;
mod rebuilds;

pub use self::{
    bus::Bus,
    courses::TaggedCourses,
    orders::StoredOrders,
    projecting::Projecting,
    projections::Kind,
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds, TotalBatches, TotalRows},
};
