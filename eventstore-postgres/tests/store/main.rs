//! The event store on PostgreSQL.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;

mod append_in;
mod clock;
mod conformance;
mod connect;
mod corrupt;
mod crash;
mod feed_pages;
mod gaps;
mod grants;
mod group;
mod listings;
mod metrics;
mod missing_events;
mod notify;
mod partitions;
mod preflight;
mod shadow;
mod snapshots;
mod tags;
mod tls;
mod transaction;
mod trouble;
