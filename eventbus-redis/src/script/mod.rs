//! The scripts that run on the server.
//!
//! Invariant: changes that must not be seen half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way.

pub(crate) mod backlog;
pub(crate) mod consumer;
pub(crate) mod dead_letters;
pub(crate) mod group;
pub(crate) mod partition;
pub(crate) mod relay;
pub(crate) mod store;
pub(crate) mod streams;

use std::sync::LazyLock;

use redis::Script;

const BACKLOG: &str = include_str!("lib/backlog.lua");
const ENTRY_BYTES: &str = include_str!("lib/entry_bytes.lua");
const ENTRY_IDS: &str = include_str!("lib/entry_ids.lua");
const FENCE: &str = include_str!("lib/fence.lua");
const GONE: &str = include_str!("lib/gone.lua");
const LEASE_IS_LIVE: &str = include_str!("lib/lease_is_live.lua");
const MEMBERS: &str = include_str!("lib/members.lua");
const ONE_STREAM: &str = include_str!("lib/one_stream.lua");
const PAGES: &str = include_str!("lib/pages.lua");
const PARTITIONED: &str = include_str!("lib/partitioned.lua");
const PROGRAM_ARGS: &str = include_str!("lib/program_args.lua");
const PROGRAM_RUN: &str = include_str!("lib/program_run.lua");
const PROGRAM_STEPS: &str = include_str!("lib/program.lua");
const RELAY: &str = include_str!("lib/relay.lua");

pub(crate) static CHECK_SCRIPTING: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("lib/check_scripting.lua")]));
pub(crate) static PROGRAM: LazyLock<Script> = LazyLock::new(|| script(&[PROGRAM_ARGS, PROGRAM_STEPS, PROGRAM_RUN]));
pub(crate) static READ_PAGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("lib/read_page.lua")]));

/// Returns the script whose text is these parts, one after the other.
fn script(parts: &[&str]) -> Script {
    Script::new(&parts.concat())
}
