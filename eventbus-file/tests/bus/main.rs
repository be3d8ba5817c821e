//! The queue in a directory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../eventbus-redis/tests/common/tls_server.rs"]
mod tls_server;

mod conformance;
mod extremes;
mod folder;
mod handlers;
mod kills;
mod logs;
mod queue;
mod redis;
mod relay;
mod tls;
