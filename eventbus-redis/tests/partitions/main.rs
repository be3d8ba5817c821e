//! Several consumers of a group on a stream with partitions: the order of events, and the owners of partitions.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which tell what they measured")]

#[path = "../common/mod.rs"]
mod common;

mod attack;
mod fence;
mod journal;
mod process;
mod relay;
mod repartition;
mod room;
mod share;
