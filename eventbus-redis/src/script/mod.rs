//! The scripts that run on the server.
//!
//! Keep: what must not be seen half done is one script. A script reads all its keys before it writes: one that fails
//! half way is not rolled back.

use std::sync::LazyLock;

use redis::{Cmd, FromRedisValue, RedisError, Script, ScriptInvocation};

use crate::{
    RedisCommandError,
    bus::Shared,
    command,
    connection::{CommandError, Link, boxed},
};

/// A script behind the functions for ids.
macro_rules! with_ids {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("id.lua"), include_str!($file))))
    };
}

/// A script that works with the record of relays.
macro_rules! with_relay {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("id.lua"), include_str!("relay.lua"), include_str!($file))))
    };
}

/// A script that works with no ids.
macro_rules! plain {
    ($file:literal) => {
        LazyLock::new(|| Script::new(include_str!($file)))
    };
}

pub(crate) static ADOPT: LazyLock<Script> = with_relay!("adopt.lua");
pub(crate) static BEAT: LazyLock<Script> = with_ids!("beat.lua");
pub(crate) static BURY: LazyLock<Script> = plain!("bury.lua");
pub(crate) static CLAIM: LazyLock<Script> = with_relay!("claim.lua");
pub(crate) static CREATE_GROUP: LazyLock<Script> = with_relay!("create_group.lua");
pub(crate) static EXHAUSTED: LazyLock<Script> = plain!("exhausted.lua");
pub(crate) static FIND_POSITION: LazyLock<Script> = with_ids!("find_position.lua");
pub(crate) static GROUP_FLOORS: LazyLock<Script> = with_relay!("group_floors.lua");
pub(crate) static LAST_EVENT: LazyLock<Script> = with_relay!("last_event.lua");
pub(crate) static LEAVE: LazyLock<Script> = plain!("leave.lua");
pub(crate) static LOOK: LazyLock<Script> = with_ids!("look.lua");
pub(crate) static NOTE: LazyLock<Script> = with_ids!("note.lua");
pub(crate) static PUBLISH_RANGE: LazyLock<Script> = with_relay!("publish_range.lua");
pub(crate) static REPLAY: LazyLock<Script> = plain!("replay.lua");
pub(crate) static RETAKE: LazyLock<Script> = with_relay!("retake.lua");
pub(crate) static RETIRE_GROUP: LazyLock<Script> = with_ids!("retire_group.lua");
pub(crate) static REWIND: LazyLock<Script> = with_relay!("rewind.lua");
pub(crate) static SETTLE: LazyLock<Script> = plain!("settle.lua");
pub(crate) static SKIP: LazyLock<Script> = with_ids!("skip.lua");
pub(crate) static SWEEP: LazyLock<Script> = with_ids!("sweep.lua");
pub(crate) static TRIM: LazyLock<Script> = with_relay!("trim.lua");

impl Link {
    /// Runs a script once; the server is given its text if it does not know it.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CommandError> {
        let (mut connection, number) = self.connection().await?;
        let reply = script.invoke_async(&mut connection).await;
        self.noted(number, reply)
    }

    /// Runs a script that may run twice; on a connection that turns out to be lost it does.
    pub(crate) async fn rerun<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CommandError> {
        let (mut connection, number) = self.impatient().await?;
        match script.invoke_async(&mut connection).await {
            Err(error) if self.note(number, &error) => self.run(script).await,
            reply => Ok(reply?),
        }
    }
}

impl Shared {
    /// Runs a script once.
    pub(crate) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.link.run(script).await.map_err(|error| self.not_done(error))
    }

    /// Sends a command that may be sent twice.
    pub(crate) async fn tell<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.link.query(command).await.map_err(|error| self.not_done(error))
    }

    /// Sends a command that must not be sent twice.
    pub(crate) async fn tell_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisCommandError> {
        self.ensure_open()?;
        self.link.query_once(command).await.map_err(|error| self.not_done(error))
    }

    fn ensure_open(&self) -> Result<(), RedisCommandError> {
        match self.consuming.is_closed() {
            true => Err(RedisCommandError::ShutDown { stream: self.stream.clone() }),
            false => Ok(()),
        }
    }

    pub(crate) fn not_done(&self, error: CommandError) -> RedisCommandError {
        let stream = self.stream.clone();
        match error {
            CommandError::Sent(error) if is_refused(&error) => {
                RedisCommandError::Refused { stream, source: error.into() }
            }
            CommandError::Sent(error) if !command::nothing_done(&error) => {
                RedisCommandError::OutcomeUnknown { stream, source: error.into() }
            }
            nothing_done => RedisCommandError::Unavailable { stream, source: boxed(nothing_done) },
        }
    }
}

fn is_refused(error: &RedisError) -> bool {
    command::is_refusal(error) || error.code() == Some("ERR")
}
