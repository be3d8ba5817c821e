//! The dashboard over HTTP: beside stores and buses by the command, and mounted in an application.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod browser;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/filling.rs"]
mod filling;
mod http;
mod mounted;
mod pages;
mod reads;
mod rows_read;
mod security;
mod served;
mod shop;
