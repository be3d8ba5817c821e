//! Effects: the writes of handlers and projections, which the commit makes in one step.

use redis::ToSingleRedisArg;

use super::{
    RedisTransaction,
    tables::{check_key, parse_tables},
    write_set::PredictedValue,
};
use crate::store::RedisTransactionError;

/// Most arguments of one command: a script can pass on only some thousand.
const COMMAND_ARGUMENTS_MAX: usize = 1_000;

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

/// Writes. The transaction sends them with the commit, so only then does the server refuse one, as `HINCRBY` on a text;
/// the commit then fails as a whole.
///
/// These methods fail at once only if the key is not allowed: it is empty, longer than 1,024 bytes, the store's own,
/// or, in a rebuild, in none of the projection's `tables(..)`.
impl RedisTransaction {
    /// Adds to a number in a field of a hash, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBY", vec![field.into(), to_bytes(by)])?;
        self.write_set.add_to_field(key, field.as_bytes(), by);
        Ok(())
    }

    /// Adds to a number with a fraction in a field of a hash, which counts from 0. The server calculates: sums of many
    /// such numbers are not exact, so count money in its smallest unit.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hincrbyfloat(&mut self, key: &str, field: &str, by: f64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBYFLOAT", vec![field.into(), to_bytes(by)])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Unknown);
        Ok(())
    }

    /// Sets a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hset(&mut self, key: &str, field: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Field, "HSET", vec![field.into(), value.clone()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Removes a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hdel(&mut self, key: &str, field: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HDEL", vec![field.into()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(None));
        Ok(())
    }

    /// Sets a text, and replaces a value of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Key, "SET", vec![value.clone()])?;
        self.write_set.set_value(key, PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Adds to a number in a text, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn incrby(&mut self, key: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Key, "INCRBY", vec![to_bytes(by)])?;
        self.write_set.add_to_value(key, by);
        Ok(())
    }

    /// Removes a key of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn del(&mut self, key: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Drop, "DEL", Vec::new())?;
        self.write_set.set_value(key, PredictedValue::Exactly(None));
        Ok(())
    }

    /// Adds a member to a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn sadd(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SADD", vec![to_bytes(member)])
    }

    /// Removes a member from a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn srem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SREM", vec![to_bytes(member)])
    }

    /// Gives a member of a sorted set its score.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zadd(&mut self, key: &str, member: impl ToSingleRedisArg, score: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZADD", vec![to_bytes(score), to_bytes(member)])
    }

    /// Adds to the score of a member of a sorted set, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZINCRBY", vec![to_bytes(by), to_bytes(member)])
    }

    /// Removes a member from a sorted set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZREM", vec![to_bytes(member)])
    }

    /// Adds any other command that writes to one key, right behind its name: `command("RPUSH", "log", ["a"])`.
    ///
    /// The commit copies the key first, to be able to undo the command. That takes as long as the key is large: use it
    /// for small keys. The commit fails with [`RedisTransactionError::InvalidCommand`] if the command is not of that
    /// form.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed, or there are more than 1,000 arguments.
    pub fn command<A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(), RedisTransactionError> {
        let name = name.to_ascii_uppercase();
        let args: Vec<_> = arguments.into_iter().map(to_bytes).collect();
        if args.len() > COMMAND_ARGUMENTS_MAX {
            let reason = "it has more than 1,000 arguments";
            return Err(RedisTransactionError::InvalidCommand { command: name, reason });
        }
        self.push_blind_write(key, Undo::Key, &name, args)?;
        if let Some(effect) = self.effects.last_mut() {
            effect.needs_command_check = true;
        }
        Ok(())
    }

    fn push_blind_write(
        &mut self,
        key: &str,
        undo: Undo,
        name: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<(), RedisTransactionError> {
        self.push_effect(key, undo, name, args)?;
        self.write_set.set_value(key, PredictedValue::Unknown);
        Ok(())
    }

    fn push_effect(
        &mut self,
        key: &str,
        undo: Undo,
        name: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<(), RedisTransactionError> {
        check_key(key)?;
        let stored_key = match &self.shadow {
            None => self.inner.keys().live_key(key),
            Some(shadow) if parse_tables(shadow)?.iter().any(|table| table.contains(key)) => {
                self.inner.keys().shadow_copy(&shadow.name, key)
            }
            Some(shadow) => {
                let (key, shadow) = (key.to_owned(), shadow.name.to_string());
                return Err(RedisTransactionError::NotInTables { key, shadow });
            }
        };
        self.effects.push(Effect {
            key: stored_key,
            logical_key: key.into(),
            undo,
            name: name.into(),
            args,
            needs_command_check: false,
        });
        Ok(())
    }
}
