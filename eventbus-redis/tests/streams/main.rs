//! Streams of plain events: publishing, consuming, projecting, trimming.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod cluster;
mod consume;
mod crash;
mod document;
mod effects;
mod loss;
mod maintain;
mod project;
mod publish;
mod read;
mod rebuild;
mod rig;
