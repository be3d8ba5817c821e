//! The example `web`, run as a program and called over HTTP.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod health;
mod limits;
mod load;
mod routes;
mod shutdown;
mod web;
mod workers;
