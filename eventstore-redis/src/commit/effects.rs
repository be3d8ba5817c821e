//! The effects of a transaction: the writes of handlers and projections, which the commit makes in one step.

use std::collections::BTreeSet;

use eventbus::Name;
use eventbus_redis_core::{
    program::{AtomicProgram, Effect},
    reply,
};
use redis::{RedisError, Value};

use crate::{RedisTransactionError, inner::StoreInner, keys::StoreKeys};

/// Effects, in the order in which the commit makes them.
#[derive(Debug, Default)]
pub(crate) struct EffectList {
    /// Each effect with the key that it writes: the key with prefix, or the copy of a rebuild.
    effects: Vec<(String, Effect)>,
    /// Commands that the user named, so that the store must check them with the server.
    named_commands: BTreeSet<String>,
}

impl EffectList {
    pub(crate) fn push(&mut self, stored_key: String, effect: Effect) {
        self.effects.push((stored_key, effect));
    }

    /// Notes that [`check_commands`](Self::check_commands) must check this command.
    pub(crate) fn require_check(&mut self, command: String) {
        self.named_commands.insert(command);
    }

    /// Checks with the server that each new command writes to one key, its first argument.
    pub(crate) async fn check_commands(&self, inner: &StoreInner) -> Result<(), RedisTransactionError> {
        let unknown: Vec<&String> = self.named_commands.iter().filter(|name| !inner.is_command_checked(name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let command = reply::request("COMMAND", ("INFO", &unknown));
        let replies: Vec<Value> =
            inner.connection().query_idempotent(&command).await.map_err(RedisTransactionError::unavailable)?;
        let mut replies = replies.into_iter();
        for name in unknown {
            let reply = replies.next().unwrap_or(Value::Nil);
            if let Some(reason) =
                effect_problem(reply).map_err(|error| RedisTransactionError::Unavailable(error.into()))?
            {
                return Err(RedisTransactionError::InvalidCommand { command: name.clone(), reason });
            }
            inner.remember_command(name);
        }
        Ok(())
    }

    /// Adds the steps that list the copies which the effects write in a rebuild.
    pub(crate) fn add_names(&self, keys: &StoreKeys, shadow: &Name, program: &mut AtomicProgram) {
        let copies: BTreeSet<_> = self.effects.iter().map(|(_, effect)| &effect.key).collect();
        for copy in copies {
            program.list_key(&keys.shadow_copies(shadow), copy);
        }
    }

    pub(crate) fn add_writes(&self, keys: &StoreKeys, token: &str, program: &mut AtomicProgram) {
        for (number, (stored_key, effect)) in self.effects.iter().enumerate() {
            program.effect(stored_key, &keys.undo_backup(token, number), effect);
        }
    }
}

/// Returns the reason why a command cannot be an effect, from the server's `COMMAND INFO`.
fn effect_problem(info: Value) -> Result<Option<&'static str>, RedisError> {
    let Value::Array(info) = info else {
        return Ok(Some("the server does not know it"));
    };
    let mut info = info.into_iter().skip(2);
    let mut next = || info.next().unwrap_or(Value::Nil);
    let flags: Vec<String> = reply::parse_value(match next() {
        Value::Set(flags) | Value::Array(flags) => Value::Array(flags),
        other => other,
    })?;
    let (first, last): (i64, i64) = (reply::parse_value(next())?, reply::parse_value(next())?);
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    Ok(if !has("write") {
        Some("it does not write; use `query` to read")
    } else if has("noscript") || has("blocking") {
        Some("the server refuses it in scripts")
    } else if first != 1 || last != 1 || has("movablekeys") {
        Some("it does not take one key, right behind its name")
    } else {
        None
    })
}
