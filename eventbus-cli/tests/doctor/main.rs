//! The doctor finds exactly what is wrong with real servers and data, and no fault on healthy ones.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod bus_and_store;
mod catalog;
mod common;
mod compose_file;
#[path = "../common/filling.rs"]
#[allow(dead_code, reason = "the pages need more")]
mod filling;
mod healthy;
mod pooler;
mod postgres_access;
mod postgres_contents;
mod postgres_server;
mod postgres_tables;
mod redis_access;
mod redis_contents;
mod redis_groups;
mod redis_server;
mod run;
mod sqlite_file;
#[path = "../../../eventbus-redis/tests/common/tls_server.rs"]
mod tls_server;
