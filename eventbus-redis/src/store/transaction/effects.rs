//! What handlers and projections write: effects, which the commit makes all at once.

use redis::ToSingleRedisArg;

use super::{
    RedisTransaction, RedisTransactionError,
    tables::{check_key, parse_tables},
    write_set::PredictedValue,
};

/// The most arguments of one command: a script can pass on no more than some thousand.
const COMMAND_ARGUMENTS_MAX: usize = 1_000;

/// A command that the commit sends.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    /// As the server knows it.
    pub(crate) key: String,
    /// As the transaction calls it.
    pub(crate) logical_key: String,
    pub(crate) undo: Undo,
    pub(crate) name: String,
    /// What follows the key.
    pub(crate) args: Vec<Vec<u8>>,
    /// Whether it was named by the user, so that the server is to be asked about it.
    pub(crate) needs_command_check: bool,
}

/// What an effect may change, and so what is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The field of a hash that its first argument names.
    Field,
    /// The member of a set that its first argument is.
    Member,
    /// The score of the member that its last argument is.
    Score,
    /// Anything in the key.
    Key,
    /// The key, which is gone afterwards.
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

/// What is written. Nothing is sent before the commit, so a command that the server refuses, as `HINCRBY` on a text, is
/// known only then; nothing is committed in that case.
///
/// Each of these fails at once only if the key cannot be one here: it is empty, the store's own, or, in a rebuild, in
/// none of the projection's `tables(..)`.
impl RedisTransaction {
    /// Adds to a number in a field of a hash, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBY", vec![field.into(), to_bytes(by)])?;
        self.write_set.add_to_field(key, field.as_bytes(), by);
        Ok(())
    }

    /// Adds to a number with a fraction in a field of a hash, which counts from 0. The server calculates: sums of many
    /// such numbers are not exact, so count money in its smallest unit.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hincrbyfloat(&mut self, key: &str, field: &str, by: f64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBYFLOAT", vec![field.into(), to_bytes(by)])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Unknown);
        Ok(())
    }

    /// Sets a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hset(&mut self, key: &str, field: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Field, "HSET", vec![field.into(), value.clone()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Removes a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hdel(&mut self, key: &str, field: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HDEL", vec![field.into()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(None));
        Ok(())
    }

    /// Sets a text, whatever the key held.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Key, "SET", vec![value.clone()])?;
        self.write_set.set_value(key, PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Adds to a number in a text, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn incrby(&mut self, key: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Key, "INCRBY", vec![to_bytes(by)])?;
        self.write_set.add_to_value(key, by);
        Ok(())
    }

    /// Removes a key of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn del(&mut self, key: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Drop, "DEL", Vec::new())?;
        self.write_set.set_value(key, PredictedValue::Exactly(None));
        Ok(())
    }

    /// Adds a member to a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn sadd(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SADD", vec![to_bytes(member)])
    }

    /// Removes a member from a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn srem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SREM", vec![to_bytes(member)])
    }

    /// Gives a member of a sorted set its score.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zadd(&mut self, key: &str, member: impl ToSingleRedisArg, score: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZADD", vec![to_bytes(score), to_bytes(member)])
    }

    /// Adds to the score of a member of a sorted set, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZINCRBY", vec![to_bytes(by), to_bytes(member)])
    }

    /// Removes a member from a sorted set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZREM", vec![to_bytes(member)])
    }

    /// Any other command that writes to one key, which stands right behind its name: `command("RPUSH", "log", ["a"])`.
    ///
    /// So that it can be undone, the commit copies the key first, which takes as long as the key is large: it is for
    /// small ones. The commit fails with [`RedisTransactionError::InvalidCommand`] for one that is not of that form.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here, or there are more than 1,000 arguments.
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
            None => self.store.keys().live_key(key),
            Some(shadow) if parse_tables(shadow)?.iter().any(|table| table.contains(key)) => {
                self.store.keys().shadow_copy(&shadow.name, key)
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
