//! The scripts, and parts of scripts, that the server runs for the bus and for the store.

use std::{ops::Deref, sync::OnceLock};

use redis::Script;

pub const ENTRY_BYTES: &str = include_str!("lua/entry_bytes.lua");
pub const ENTRY_IDS: &str = include_str!("lua/entry_ids.lua");
pub const FORMAT: &str = include_str!("lua/format.lua");
pub const LEASE_IS_LIVE: &str = include_str!("lua/lease_is_live.lua");
pub const PAGES: &str = include_str!("lua/pages.lua");
/// Begins a script of programs: reads the steps. The script goes on with its own kinds of steps, if it has any.
pub const PROGRAM_ARGS: &str = include_str!("lua/program_args.lua");
pub const PROGRAM_STEPS: &str = include_str!("lua/program.lua");
/// Ends a script of programs: runs the steps.
pub const PROGRAM_RUN: &str = include_str!("lua/program_run.lua");

pub static CHECK_SCRIPTING: Lua = lua(&[include_str!("lua/check_scripting.lua")]);
/// Runs a program that has no steps of a driver's own.
pub static PROGRAM: Lua = lua(&[PROGRAM_ARGS, PROGRAM_STEPS, PROGRAM_RUN]);
pub static READ_PAGE: Lua = lua(&[ENTRY_BYTES, PAGES, include_str!("lua/read_page.lua")]);

/// A script whose text is a sequence of parts.
#[derive(Debug)]
pub struct Lua {
    parts: &'static [&'static str],
    script: OnceLock<Script>,
}

#[must_use]
pub const fn lua(parts: &'static [&'static str]) -> Lua {
    Lua { parts, script: OnceLock::new() }
}

impl Deref for Lua {
    type Target = Script;

    fn deref(&self) -> &Script {
        self.script.get_or_init(|| Script::new(&self.parts.concat()))
    }
}
