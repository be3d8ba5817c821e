//! Consuming resumes by itself after every fault, within two seconds of the server being back.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod data;
mod in_hand;
mod load;
mod logs;
mod many;
mod network;
mod refusal;
mod restart;
mod rig;
