//! The commands of the guide, run on real servers: what the chapters show, and the commands in the binary of an
//! application.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod app;
mod async_api;
mod bank;
mod chapters;
mod validators;
