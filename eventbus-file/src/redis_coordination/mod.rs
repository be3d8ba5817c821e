//! Coordination through Redis: a counter, claims that expire, messages.

mod config;
mod coordinator;
mod message;
mod monitor;
mod resync;
mod script;
mod state;

pub use config::RedisCoordination;
pub(crate) use coordinator::RedisCoordinator;
pub(crate) use monitor::start;
