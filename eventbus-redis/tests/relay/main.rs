//! The requirements of relays: the bus has a store's events in order, each once, despite crashes, races and losses.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod loss;
mod range;
mod record;
mod rig;
mod stores;
