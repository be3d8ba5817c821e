#![doc = include_str!("../README.md")]
//!
//! # As a library
//! [`run_from`] is the command. [`connection`] turns URLs into stores and buses without creating any, and [`query`] reads
//! what the commands show, apart from printing.
//!
//! A subcommand is a variant of `Command` in `cli.rs` with its arguments, and a file in `command/` that runs it.

pub mod cli;
mod command;
pub mod connection;
pub mod doctor;
mod error;
mod output;
pub mod query;
mod session;
mod transfer;

pub use cli::{run, run_from};
pub use error::{CommandError, ExitStatus};
