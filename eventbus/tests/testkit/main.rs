//! The test kit: what it accepts, and the texts with which its tests fail.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod courses;
mod failure;
mod given;
mod given_decision;
mod given_events;
mod orders;
mod test_app;
