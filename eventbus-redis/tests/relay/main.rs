//! The requirements of relays: the bus has a store's events in order, each once, despite crashes, races and losses.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod floors;
mod holes;
mod loss;
mod mark;
mod model;

mod range;
mod rewind;
mod rig;
mod stores;
mod trim;
