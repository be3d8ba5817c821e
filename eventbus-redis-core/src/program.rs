//! Programs: checks and writes of one script, which makes all writes or none.
//!
//! Invariant: a program has first its checks, then the writes that may fail, which the script undoes if a later one
//! fails, then the writes that cannot fail. The builder keeps the order in which its caller adds the steps.

use std::collections::HashMap;

use redis::{Script, ScriptInvocation, ToSingleRedisArg};

/// A command that writes one key.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The key as the user names it.
    pub key: String,
    pub undo: Undo,
    pub command: String,
    /// Arguments after the key.
    pub args: Vec<Vec<u8>>,
}

/// The part of a key that an effect may change: the script saves it first, to undo the effect.
#[derive(Debug, derive_more::Display, Clone, Copy, PartialEq, Eq)]
#[display(rename_all = "lowercase")]
pub enum Undo {
    /// The field of a hash that its first argument names.
    Field,
    /// The member of a set that is its first argument.
    Member,
    /// The score of the member that is its last argument.
    Score,
    /// The whole key, which the script copies.
    Key,
    /// The whole key, which the effect removes: the script renames it first.
    Drop,
}

impl Undo {
    const fn needs_backup(self) -> bool {
        matches!(self, Self::Key | Self::Drop)
    }
}

pub fn to_bytes(argument: impl ToSingleRedisArg) -> Vec<u8> {
    argument.to_redis_args().into_iter().next().unwrap_or_default()
}

/// A call of a script of programs: its keys, and its steps as arguments.
#[derive(Debug, Default)]
pub struct AtomicProgram {
    keys: Vec<String>,
    key_numbers: HashMap<String, usize>,
    /// The backup key of the first effect on a part of a key.
    part_backup_key: Option<String>,
    args: Vec<Vec<u8>>,
}

impl AtomicProgram {
    /// Checks that a key holds this text, or is missing if the text is `0`; else the reply is [`ProgramReply::Moved`].
    pub fn require_value(&mut self, key: &str, value: &str) {
        self.step("at").key(key).arg(value);
    }

    /// Adds a name to the set of written keys; undone if a later step fails.
    pub fn list_key(&mut self, set: &str, name: &str) {
        self.step("list").key(set).arg(name);
    }

    /// Adds an effect on a stored key; undone if a later step fails. The script uses `backup_key` meanwhile: a key
    /// of this effect alone.
    pub fn effect(&mut self, stored_key: &str, backup_key: &str, effect: &Effect) {
        let Effect { undo, command, args, .. } = effect;
        // an effect on a part only tests its undo there, so one key serves all of them
        let backup_key = match undo.needs_backup() {
            true => backup_key.to_owned(),
            false => self.part_backup_key.get_or_insert_with(|| backup_key.to_owned()).clone(),
        };
        self.step("do").key(stored_key).arg(undo.to_string()).key(&backup_key).arg(command).arg_list(args);
    }

    pub fn unlink(&mut self, key: &str) {
        self.step("drop").key(key);
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.step("set").key(key).arg(value);
    }

    /// Begins a step of any name; its keys and arguments follow.
    pub fn step(&mut self, name: &str) -> &mut Self {
        self.arg(name)
    }

    pub fn key(&mut self, key: &str) -> &mut Self {
        let next = self.keys.len() + 1;
        let number = *self.key_numbers.entry(key.to_owned()).or_insert(next);
        if number == next {
            self.keys.push(key.to_owned());
        }
        self.arg(number.to_string())
    }

    pub fn arg(&mut self, word: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(word.as_ref().to_vec());
        self
    }

    pub fn arg_list(&mut self, words: &[Vec<u8>]) -> &mut Self {
        self.arg(words.len().to_string());
        self.args.extend_from_slice(words);
        self
    }

    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Returns the call of a script that knows all steps of the program.
    pub fn invocation<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut invocation = script.prepare_invoke();
        invocation.key(&self.keys).arg(&self.args);
        invocation
    }
}

/// Reply of the script to a program. Unless it is `Done`, the script wrote no key.
#[derive(Debug)]
pub enum ProgramReply {
    /// All steps are made; holds the words that they add to the reply.
    Done(Vec<String>),
    /// A key no longer holds the value that the program requires.
    Moved,
    /// The server refused a write.
    Refused { key: String, command: String, reason: String },
    /// A step that the caller added refused.
    Other(Vec<String>),
}

impl ProgramReply {
    pub fn parse(reply: Vec<String>) -> Self {
        let mut words = reply.iter().cloned();
        let mut next = || words.next().unwrap_or_default();
        match next().as_str() {
            "ok" => Self::Done(words.collect()),
            "lost" => Self::Moved,
            "failed" => Self::Refused { key: next(), command: next(), reason: next() },
            _ => Self::Other(reply),
        }
    }
}
