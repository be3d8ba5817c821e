//! The scripts, and the parts of scripts, that run on the server for the bus and for the store.

use std::sync::LazyLock;

use redis::Script;

pub const ENTRY_BYTES: &str = include_str!("lua/entry_bytes.lua");
pub const ENTRY_IDS: &str = include_str!("lua/entry_ids.lua");
pub const LEASE_IS_LIVE: &str = include_str!("lua/lease_is_live.lua");
pub const PAGES: &str = include_str!("lua/pages.lua");
/// Begins a script of programs: reads the steps. The script goes on with the steps of its own, if any.
pub const PROGRAM_ARGS: &str = include_str!("lua/program_args.lua");
pub const PROGRAM_STEPS: &str = include_str!("lua/program.lua");
/// Ends a script of programs: runs the steps.
pub const PROGRAM_RUN: &str = include_str!("lua/program_run.lua");

pub static CHECK_SCRIPTING: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lua/check_scripting.lua")]));
/// Runs a program that has no steps of a driver's own.
pub static PROGRAM: LazyLock<Script> = LazyLock::new(|| script(&[PROGRAM_ARGS, PROGRAM_STEPS, PROGRAM_RUN]));
pub static READ_PAGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("lua/read_page.lua")]));

/// Returns the script whose text is these parts, one after the other.
#[must_use]
pub fn script(parts: &[&str]) -> Script {
    Script::new(&parts.concat())
}
