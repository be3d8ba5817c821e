//! The commit of a transaction: one script that makes all checks, then all writes.

use std::collections::{BTreeSet, HashMap};

use redis::{RedisError, ScriptInvocation, Value};

use super::{Effect, RedisTransaction};
use crate::{
    error::CommandError,
    reply,
    script::store::COMMIT,
    store::{
        RedisTransactionError,
        error::{corrupt_last_entry, is_refused},
        fault,
        inner::StoreInner,
    },
};

/// A call of the commit script: its keys, and its steps as arguments.
#[derive(Default)]
pub(crate) struct Program {
    keys: Vec<String>,
    key_numbers: HashMap<String, usize>,
    args: Vec<Vec<u8>>,
}

impl Program {
    pub(crate) fn arg(&mut self, word: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(word.as_ref().to_vec());
        self
    }

    pub(crate) fn push_arg(&mut self, word: &[u8]) {
        self.args.push(word.to_vec());
    }

    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        let next = self.keys.len() + 1;
        let number = *self.key_numbers.entry(key.to_owned()).or_insert(next);
        if number == next {
            self.keys.push(key.to_owned());
        }
        self.arg(number.to_string())
    }

    pub(crate) fn arg_list(&mut self, words: &[Vec<u8>]) -> &mut Self {
        self.arg(words.len().to_string());
        self.args.extend_from_slice(words);
        self
    }

    /// Adds an effect, which the script undoes if a later step fails; `backup_key` holds a backup of its key meanwhile.
    pub(crate) fn effect(&mut self, key: &str, backup_key: &str, effect: &Effect) {
        let Effect { undo, name, args, .. } = effect;
        self.arg("do").key(key).arg(undo.as_arg());
        match undo.needs_backup() {
            true => self.key(backup_key),
            false => self.arg("0"),
        };
        self.arg(name).arg_list(args);
    }

    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(crate) fn script(&self) -> ScriptInvocation<'static> {
        let mut script = COMMIT.prepare_invoke();
        script.key(&self.keys).arg(&self.args);
        script
    }
}

impl RedisTransaction {
    /// Commits a transaction of [`begin_transaction`](crate::RedisEventStore::begin_transaction). The app commits those of
    /// handlers.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the transaction is not committed; after
    /// [`OutcomeUnknown`](RedisTransactionError::OutcomeUnknown) it may be.
    pub async fn commit(mut self) -> Result<(), RedisTransactionError> {
        check_commands(&self.inner, &self.effects).await?;
        let program = self.program();
        if program.args.is_empty() {
            return Ok(());
        }
        if self.locks.is_timed_out() {
            return Err(self.timed_out_error());
        }
        // never sent twice: a second run would take the writes of the first for a conflict, or repeat effects
        let reply: Result<Vec<String>, _> = self.inner.connection().run(&program.script()).await;
        let reply = reply.map_err(|error| match error {
            CommandError::NotSent(text) => RedisTransactionError::Unavailable(text.into()),
            CommandError::Sent(error) if reply::is_not_executed(&error) => {
                RedisTransactionError::Unavailable(error.into())
            }
            CommandError::Sent(error) => RedisTransactionError::OutcomeUnknown(error.into()),
        })?;
        let mut reply = reply.into_iter();
        let outcome = reply.next().unwrap_or_default();
        let mut next = || reply.next().unwrap_or_default();
        match outcome.as_str() {
            "ok" => {
                self.locks.clear();
                self.record_append(&next());
                Ok(())
            }
            "changed" => Err(RedisTransactionError::Changed { key: next() }),
            "late" => Err(self.timed_out_error()),
            "damaged" => {
                let (key, entry) = (next(), next());
                let source = corrupt_last_entry(&key, &entry).into();
                Err(RedisTransactionError::EffectRefused { key, command: "XADD".into(), source })
            }
            "failed" => {
                let (key, command, source) = (next(), next(), next());
                Err(match fault::fault_of_text(&source) {
                    // a fault of the server, as full memory: a later run can succeed
                    Some(_) => RedisTransactionError::Unavailable(source.into()),
                    None => RedisTransactionError::EffectRefused { key, command, source: source.into() },
                })
            }
            _ => Err(RedisTransactionError::Superseded),
        }
    }

    fn timed_out_error(&self) -> RedisTransactionError {
        RedisTransactionError::TimedOut { limit: self.inner.config().transaction_timeout }
    }

    fn program(&self) -> Program {
        let mut program = Program::default();
        self.add_checks(&mut program);
        self.add_writes(&mut program);
        program
    }

    /// Adds the steps that check.
    fn add_checks(&self, program: &mut Program) {
        let keys = self.inner.keys();
        for moved in &self.checkpoint_moves {
            let lease = &moved.lease;
            program.arg("fence").key(&keys.lease(&lease.role)).arg(&*lease.owner).arg(lease.epoch.to_string());
            let (step, key) = match &self.shadow {
                Some(shadow) => ("filled", keys.shadow(&shadow.name)),
                None => ("at", keys.checkpoint(&lease.role)),
            };
            program.arg(step).key(&key).arg(moved.from.to_string());
        }
        for lock in self.locks.keys() {
            program.arg("claim").key(lock).arg(self.locks.token());
        }
        for note in &self.handled_deliveries {
            program.arg("first").key(&keys.deliveries()).arg(note);
        }
        for read in &self.read_set {
            program.arg("same").key(&read.key).arg(&read.fingerprint).arg(&read.command).arg_list(&read.args);
        }
        self.add_append_checks(program);
        for swap in &self.shadow_swaps {
            program.arg("filled").key(&keys.shadow(&swap.shadow)).arg(swap.position.to_string());
        }
    }

    /// Adds the steps that write. Those that may fail come first: the script can still undo them.
    fn add_writes(&self, program: &mut Program) {
        let keys = self.inner.keys();
        if let Some(shadow) = &self.shadow {
            let copies: BTreeSet<_> = self.effects.iter().map(|effect| &effect.logical_key).collect();
            for copy in copies {
                program.arg("list").key(&keys.shadow_copies(&shadow.name)).arg(copy);
            }
        }
        for (number, effect) in self.effects.iter().enumerate() {
            program.effect(&effect.key, &keys.undo_backup(self.locks.token(), number), effect);
        }
        if !self.appends.is_empty() {
            let program = program.arg("append").arg("place");
            program.key(&keys.feed()).key(&keys.ids()).key(&keys.event_types());
        }
        for swap in &self.shadow_swaps {
            for (copy, live) in &swap.swaps {
                program.arg("swap").key(copy).key(live);
            }
            for removed in &swap.removed_keys {
                program.arg("clear").key(removed);
            }
            program.arg("drop").key(&keys.shadow(&swap.shadow));
            program.arg("drop").key(&keys.shadow_copies(&swap.shadow));
        }
        for moved in &self.checkpoint_moves {
            let to = moved.to.to_string();
            match &self.shadow {
                Some(shadow) => program.arg("fill").key(&keys.shadow(&shadow.name)).arg(to),
                None => program.arg("set").key(&keys.checkpoint(&moved.lease.role)).arg(to),
            };
        }
        for note in &self.handled_deliveries {
            program.arg("note").key(&keys.deliveries()).arg(note);
        }
        for lock in self.locks.keys() {
            program.arg("release").key(lock);
        }
    }
}

/// Checks with the server that each new command writes to one key, right behind its name.
async fn check_commands(inner: &StoreInner, effects: &[Effect]) -> Result<(), RedisTransactionError> {
    let mut unknown: Vec<&str> =
        effects.iter().filter(|it| it.needs_command_check).map(|it| it.name.as_str()).collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown.retain(|name| !inner.is_command_checked(name));
    if unknown.is_empty() {
        return Ok(());
    }
    let mut command = redis::cmd("COMMAND");
    command.arg("INFO").arg(&unknown);
    let replies: Vec<Value> = inner.connection().query(&command).await.map_err(RedisTransactionError::unavailable)?;
    let mut replies = replies.into_iter();
    for name in unknown {
        let reply = replies.next().unwrap_or(Value::Nil);
        if let Some(reason) = effect_problem(reply).map_err(|error| RedisTransactionError::Unavailable(error.into()))? {
            return Err(RedisTransactionError::InvalidCommand { command: name.into(), reason });
        }
        inner.remember_command(name);
    }
    Ok(())
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

/// Returns `true` if the server refuses the command itself, rather than being unavailable.
pub(super) fn is_command_refusal(error: &RedisError) -> bool {
    is_refused(error)
}
