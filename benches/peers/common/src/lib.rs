//! What the benchmark and its peers share: the workloads, their event, the meter, and the protocol of a worker.

pub mod bench;
pub mod items;
pub mod meter;
pub mod order;
pub mod peer;
pub mod postgres_server;
pub mod redis_server;
pub mod worker;
pub mod workload;

use uuid::Uuid;

#[cfg(feature = "eventbus")]
pub use eventbus::Result;

#[cfg(not(feature = "eventbus"))]
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Returns a name that nothing else on a server has.
pub fn unique_name(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::now_v7())
}
