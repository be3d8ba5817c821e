#![doc = include_str!("../README.md")]
//!
//! # As a library
//! [`run_from`] is the command, [`from_args`] is the same command in the binary of an application. [`connection`] opens
//! existing stores and buses by URL, and [`query`] reads what the commands show, without printing.
//!
//! A subcommand is a variant of `Command` in `cli.rs` with its arguments, and a file in `command/` that runs it.

mod app_command;
mod app_source;
pub mod catalog;
pub mod cli;
mod command;
pub mod connection;
#[cfg(feature = "dashboard")]
pub mod dashboard;
mod dead_letter_action;
pub mod doctor;
mod error;
mod output;
pub mod query;
mod session;
mod transfer;

pub use app_command::{AppCommand, from_args};
pub use cli::{run, run_from};
#[cfg(feature = "dashboard")]
pub use dashboard::dashboard;
pub use error::{CommandError, ExitStatus};
