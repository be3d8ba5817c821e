#![doc = include_str!("../README.md")]
//!
//! # As a library
//! [`run_from`] is the command, [`from_args`] the same one within the binary of an application. [`connection`] turns URLs into stores and buses without creating any, and [`query`] reads
//! what the commands show, apart from printing.
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
