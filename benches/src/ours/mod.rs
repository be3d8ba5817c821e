//! This project, as an application uses it.

mod bus;
mod courses;
mod metrics;
mod orders;
mod projecting;
mod projections;
mod reacting;
mod rebuilds;
#[cfg(feature = "traces")]
mod traces;

#[cfg(feature = "traces")]
pub use self::traces::export_traces;
pub use self::{
    bus::{Bus, config as bus_config},
    courses::TaggedCourses,
    orders::StoredOrders,
    projecting::Projecting,
    projections::{Kind, add as add_projections},
    reacting::Reacting,
    rebuilds::{MemoryRebuilds, RowRebuilds, TotalBatches, TotalRows},
};
