//! The code that the macros generate, seen from outside.
#![allow(clippy::unwrap_used, reason = "in helpers of tests, as in tests")]

mod domain;
mod events;
mod handlers;
mod projections;
mod recording;
mod versions;
