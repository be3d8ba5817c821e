//! The bus on Redis.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../eventbus/tests/lines/mod.rs"]
mod lines;
#[path = "../common/tls_server.rs"]
mod tls_server;

mod address;
mod cluster;
mod config;
mod conformance;
mod connect;
mod connections;
mod dead_letters;
mod deliveries;
mod extremes;
mod faults;
mod groups;
mod health;
mod history;
mod members;
mod pending;
mod recover;
mod recovery;
mod releases;
mod retries;
mod sharing;
mod tls;
mod trim;
mod trim_attack;
mod waiting;
mod while_consuming;
