//! The program of a commit: steps that one script runs, and the effects among them.

use std::collections::HashMap;

use redis::{ScriptInvocation, ToSingleRedisArg};

use crate::script::store::COMMIT;

/// A command that the commit sends.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    /// The key with prefix, or the copy of a rebuild.
    pub(crate) key: String,
    /// The key as the handler names it.
    pub(crate) logical_key: String,
    pub(crate) undo: Undo,
    pub(crate) name: String,
    /// Arguments behind the key.
    pub(crate) args: Vec<Vec<u8>>,
    /// Set if the user named the command, so that the store must check it with the server.
    pub(crate) needs_command_check: bool,
}

/// The part of a key that an effect may change: the script saves it first, to undo the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
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
    pub(crate) const fn as_arg(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::Member => "member",
            Self::Score => "score",
            Self::Key => "key",
            Self::Drop => "drop",
        }
    }

    pub(crate) const fn needs_backup(self) -> bool {
        matches!(self, Self::Key | Self::Drop)
    }
}

pub(crate) fn to_bytes(argument: impl ToSingleRedisArg) -> Vec<u8> {
    argument.to_redis_args().into_iter().next().unwrap_or_default()
}

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

    pub(crate) fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    pub(crate) fn script(&self) -> ScriptInvocation<'static> {
        let mut script = COMMIT.prepare_invoke();
        script.key(&self.keys).arg(&self.args);
        script
    }
}
