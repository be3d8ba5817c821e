//! The runtime: repository, subscriptions, relay, projections, app; on the backends in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod app;
mod batches;
mod cache;
mod clock;
mod contexts;
mod decisions;
mod effects;
mod extremes;
mod following;
mod gated;
mod idle;
mod life;
#[path = "../lines/mod.rs"]
mod lines;
mod logs;
mod on_store;
mod once;
mod orders;
mod outages;
mod polling;
mod projections;
mod reactions;
mod readable;
mod rebuild;
mod relay;
mod relay_begin;
mod relay_chaos;
mod relay_kit;
mod relay_stopped;
mod relay_target;
mod relay_turns;
mod repository;
mod restored;
mod rolling;
mod rows;
mod rows_rebuild;
mod saving;
mod searching;
mod shared_bus;
mod skipped;
mod standalone;
mod stateful;
mod subscriptions;
mod unique_values;
mod wait;
mod waiting;
