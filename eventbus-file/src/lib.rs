#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bus;
mod claim_store;
mod claimed_event;
mod config;
mod coordinated_claims;
mod coordination;
mod dead_letter_files;
mod disk;
mod error;
mod event;
mod finished_events;
mod folder;
mod folder_check;
mod id_shards;
mod inner;
mod log;
mod metrics;
mod names;
mod payload;
mod poll_backoff;
mod publish;
mod queue;
#[cfg(feature = "redis")]
mod redis_coordination;
mod relay;
mod relay_records;
mod removal;
mod results;
mod search;
mod staged_event;
mod subscriber_broadcast;
#[cfg(test)]
mod tests;

pub use claim_store::Claim;
pub use claimed_event::ClaimedEvent;
pub use config::FileQueueConfig;
pub use coordination::CoordinationStatus;
pub use error::FileQueueError;
pub use event::QueueEvent;
pub use folder_check::FolderProblem;
pub use metrics::FileQueueMetrics;
pub use queue::FileQueue;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use redis_coordination::RedisCoordination;
pub use removal::RemovalReport;
pub use results::EventResult;
pub use search::{PageToken, Search, SearchPage};
