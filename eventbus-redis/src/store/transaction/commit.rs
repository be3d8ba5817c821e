//! The commit of a transaction: one script that looks at everything, then writes everything.

use std::collections::{BTreeSet, HashMap};

use redis::{RedisError, ScriptInvocation, Value};

use super::{Effect, RedisTransaction, RedisTransactionError};
use crate::{
    command,
    connection::CommandError,
    fault,
    script::store::COMMIT,
    store::{
        RedisEventStore,
        error::{damaged, is_refused},
    },
};

/// The script as it is put together.
#[derive(Default)]
pub(crate) struct Program {
    keys: Vec<String>,
    numbers: HashMap<String, usize>,
    words: Vec<Vec<u8>>,
}

impl Program {
    pub(crate) fn word(&mut self, word: impl AsRef<[u8]>) -> &mut Self {
        self.words.push(word.as_ref().to_vec());
        self
    }

    pub(crate) fn push(&mut self, word: &[u8]) {
        self.words.push(word.to_vec());
    }

    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        let next = self.keys.len() + 1;
        let number = *self.numbers.entry(key.to_owned()).or_insert(next);
        if number == next {
            self.keys.push(key.to_owned());
        }
        self.word(number.to_string())
    }

    pub(crate) fn list(&mut self, words: &[Vec<u8>]) -> &mut Self {
        self.word(words.len().to_string());
        self.words.extend_from_slice(words);
        self
    }

    /// A command that is undone if one after it fails; `aside` is where its key is put meanwhile.
    pub(crate) fn effect(&mut self, key: &str, aside: &str, effect: &Effect) {
        let Effect { undo, name, args, .. } = effect;
        self.word("do").key(key).word(undo.word());
        match undo.puts_aside() {
            true => self.key(aside),
            false => self.word("0"),
        };
        self.word(name).list(args);
    }

    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(crate) fn script(&self) -> ScriptInvocation<'static> {
        let mut script = COMMIT.prepare_invoke();
        script.key(&self.keys).arg(&self.words);
        script
    }
}

impl RedisTransaction {
    /// Commits a transaction of the caller's own. One that a handler or projection takes is the store's to commit.
    ///
    /// # Errors
    /// [`RedisTransactionError`] says why; only after [`OutcomeUnknown`](RedisTransactionError::OutcomeUnknown) may it
    /// be committed.
    pub async fn commit(mut self) -> Result<(), RedisTransactionError> {
        self.store.check_commands(&self.effects).await?;
        let program = self.program();
        if program.words.is_empty() {
            return Ok(());
        }
        if self.claims.is_late() {
            return Err(self.late());
        }
        // once: a second one would find that the first has let the claims go
        let reply: Result<Vec<String>, _> = self.store.link().run(&program.script()).await;
        let reply = reply.map_err(|error| match error {
            CommandError::NotSent(text) => RedisTransactionError::Unavailable(text.into()),
            CommandError::Sent(error) if command::nothing_done(&error) => {
                RedisTransactionError::Unavailable(error.into())
            }
            CommandError::Sent(error) => RedisTransactionError::OutcomeUnknown(error.into()),
        })?;
        let mut reply = reply.into_iter();
        let outcome = reply.next().unwrap_or_default();
        let mut next = || reply.next().unwrap_or_default();
        match outcome.as_str() {
            "ok" => {
                self.claims.forget();
                self.has_appended(&next());
                Ok(())
            }
            "changed" => Err(RedisTransactionError::Changed { key: next() }),
            "late" => Err(self.late()),
            "damaged" => {
                let (key, entry) = (next(), next());
                let source = damaged(&key, &entry).into();
                Err(RedisTransactionError::EffectRefused { key, command: "XADD".into(), source })
            }
            "failed" => {
                let (key, command, source) = (next(), next(), next());
                Err(match fault::of_text(&source) {
                    // the command could be run when there is room again
                    Some(_) => RedisTransactionError::Unavailable(source.into()),
                    None => RedisTransactionError::EffectRefused { key, command, source: source.into() },
                })
            }
            _ => Err(RedisTransactionError::Lost),
        }
    }

    fn late(&self) -> RedisTransactionError {
        RedisTransactionError::TimedOut { limit: self.store.config().transaction_timeout }
    }

    fn program(&self) -> Program {
        let mut program = Program::default();
        self.look(&mut program);
        self.write(&mut program);
        program
    }

    /// What must still hold.
    fn look(&self, program: &mut Program) {
        let keys = self.store.keys();
        for moved in &self.moves {
            let lease = &moved.lease;
            program.word("fence").key(&keys.lease(&lease.role)).word(&*lease.owner).word(lease.epoch.to_string());
            let (step, key) = match &self.shadow {
                Some(shadow) => ("filled", keys.shadow(&shadow.name)),
                None => ("at", keys.checkpoint(&lease.role)),
            };
            program.word(step).key(&key).word(moved.from.to_string());
        }
        for claim in self.claims.keys() {
            program.word("claim").key(claim).word(self.claims.token());
        }
        for note in &self.notes {
            program.word("first").key(&keys.deliveries()).word(note);
        }
        for read in &self.reads {
            program.word("same").key(&read.key).word(&read.seen).word(&read.name).list(&read.args);
        }
        self.look_at_appends(program);
        for replacing in &self.replacing {
            program.word("filled").key(&keys.shadow(&replacing.shadow)).word(replacing.position.to_string());
        }
    }

    /// What is written: first what may fail.
    fn write(&self, program: &mut Program) {
        let keys = self.store.keys();
        if let Some(shadow) = &self.shadow {
            let copies: BTreeSet<_> = self.effects.iter().map(|effect| &effect.named).collect();
            for copy in copies {
                program.word("list").key(&keys.copies(&shadow.name)).word(copy);
            }
        }
        for (number, effect) in self.effects.iter().enumerate() {
            program.effect(&effect.key, &keys.aside(self.claims.token(), number), effect);
        }
        if !self.appends.is_empty() {
            let program = program.word("append").word("place");
            program.key(&keys.feed()).key(&keys.ids()).key(&keys.event_types());
        }
        for replacing in &self.replacing {
            for (copy, live) in &replacing.swaps {
                program.word("swap").key(copy).key(live);
            }
            for gone in &replacing.gone {
                program.word("clear").key(gone);
            }
            program.word("drop").key(&keys.shadow(&replacing.shadow));
            program.word("drop").key(&keys.copies(&replacing.shadow));
        }
        for moved in &self.moves {
            let to = moved.to.to_string();
            match &self.shadow {
                Some(shadow) => program.word("fill").key(&keys.shadow(&shadow.name)).word(to),
                None => program.word("set").key(&keys.checkpoint(&moved.lease.role)).word(to),
            };
        }
        for note in &self.notes {
            program.word("note").key(&keys.deliveries()).word(note);
        }
        for claim in self.claims.keys() {
            program.word("release").key(claim);
        }
    }
}

impl RedisEventStore {
    /// Asks the server about commands that it was not asked about before: each writes to one key, right behind its name.
    async fn check_commands(&self, effects: &[Effect]) -> Result<(), RedisTransactionError> {
        let mut unknown: Vec<&str> = effects.iter().filter(|it| it.is_general).map(|it| it.name.as_str()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|name| !self.knows_command(name));
        if unknown.is_empty() {
            return Ok(());
        }
        let mut ask = redis::cmd("COMMAND");
        ask.arg("INFO").arg(&unknown);
        let replies: Vec<Value> = self.link().query(&ask).await.map_err(RedisTransactionError::unavailable)?;
        let mut replies = replies.into_iter();
        for name in unknown {
            let reply = replies.next().unwrap_or(Value::Nil);
            if let Some(reason) = problem(reply).map_err(|error| RedisTransactionError::Unavailable(error.into()))? {
                return Err(RedisTransactionError::InvalidCommand { command: name.into(), reason });
            }
            self.learn_command(name);
        }
        Ok(())
    }
}

/// What keeps a command from being an effect, by what the server says of it.
fn problem(info: Value) -> Result<Option<&'static str>, RedisError> {
    let Value::Array(info) = info else {
        return Ok(Some("the server does not know it"));
    };
    let mut info = info.into_iter().skip(2);
    let mut next = || info.next().unwrap_or(Value::Nil);
    let flags: Vec<String> = command::read(match next() {
        Value::Set(flags) | Value::Array(flags) => Value::Array(flags),
        other => other,
    })?;
    let (first, last): (i64, i64) = (command::read(next())?, command::read(next())?);
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    Ok(if !has("write") {
        Some("it writes nothing; `query` reads")
    } else if has("noscript") || has("blocking") {
        Some("the server takes it in no transaction")
    } else if first != 1 || last != 1 || has("movablekeys") {
        Some("it is not about one key, right behind its name")
    } else {
        None
    })
}

/// Whether a failed read says something about the store, rather than about what was asked.
pub(super) fn is_about_the_command(error: &RedisError) -> bool {
    is_refused(error)
}
