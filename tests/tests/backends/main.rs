//! Stores and buses together: crashes, faults, damage and races, on each of them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests; processes that die report by printing")]

mod cached_writers;
mod consumed_stream;
mod crash;
mod damaged_rows;
mod database_faults;
mod decisions;
mod handlers_on_store;
mod kill;
mod reserved_columns;
mod snapshots;
mod stuck_handlers;
mod time_travel;
mod unfinished;
mod versions;
