//! The scripts that run on the server, each one atomic step.
//!
//! Keep: a script touches only keys of one hash slot, and reads every key before it writes one: what a script has
//! written when it fails stays written.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal),+ $(,)?) => {
        $($(#[$doc])* pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("script/", $file))));)+
    };
}

scripts! {
    ENSURE_GROUP = "ensure_group.lua",
    LOOK = "look.lua",
    LEAVE = "leave.lua",
    RETAKE = "retake.lua",
    CLAIM = "claim.lua",
    BEAT = "beat.lua",
    NOTE = "note.lua",
    SETTLE = "settle.lua",
    SKIP = "skip.lua",
    BURY = "bury.lua",
    SWEEP = "sweep.lua",
    EXHAUSTED = "exhausted.lua",
}
