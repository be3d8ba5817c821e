#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bus;
mod check;
mod claiming;
mod claims;
mod config;
mod coordination;
mod disk;
mod done;
mod error;
mod event;
mod ids;
mod log;
mod metrics;
mod names;
mod patience;
mod payload;
mod publish;
mod queue;
mod relay;
mod removal;
mod results;
mod search;
#[cfg(test)]
mod statuses;
mod work;

pub use check::Problem;
pub use claims::Claim;
pub use config::FileQueueConfig;
pub use coordination::CoordinationStatus;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use coordination::redis::RedisCoordination;
pub use error::FileQueueError;
pub use event::QueueEvent;
pub use metrics::FileQueueMetrics;
pub use queue::FileQueue;
pub use removal::{DoneWhen, Removed};
pub use results::EventResult;
pub use search::{Page, PageToken, Search};
pub use work::Work;
